"""Opening what users pass as ``samples``, one sample at a time."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from spatialdata import SpatialData, read_zarr
from spatialdata.models import TableModel

from spade import _keys
from spade._checks import shorten
from spade._samples.sample import Sample
from spade.core.checks import check_text
from spade.io._atomic import check_writable, replacing
from spade.io._store import is_store, stamp

logger = logging.getLogger("spade")
Samples: TypeAlias = SpatialData | str | PathLike[str] | Iterable[SpatialData | str | PathLike[str]]


def as_list(samples: Samples, argument: str = "samples", *, writes: bool = False) -> list[SpatialData | Path]:
    """Return the samples of an argument one by one; paths stay unopened, but must be writable if they are written."""
    if isinstance(samples, (SpatialData, str, PathLike)):
        samples = [samples]
    if isinstance(samples, ad.AnnData) or not isinstance(samples, Iterable):
        raise TypeError(f"{argument}: got {type(samples).__name__}; expected {_EXPECTED}.")
    items: list[SpatialData | Path] = []
    for item in samples:
        if isinstance(item, SpatialData):
            items.append(item)
        elif isinstance(item, (str, PathLike)):
            items.append(Path(item))
        else:
            raise TypeError(f"{argument}: item {len(items)} is {type(item).__name__}; expected {_EXPECTED}.")
    if not items:
        raise ValueError(f"{argument} is empty; expected {_EXPECTED}.")
    if len({id(item) if isinstance(item, SpatialData) else item.resolve() for item in items}) < len(items):
        raise ValueError(f"{argument}: the same object or path is listed more than once.")
    for item in items:
        if writes and isinstance(item, Path) and item.exists():
            check_writable(item.resolve())
    return items


_EXPECTED = "a SpatialData, a path to a .zarr store, or an iterable of these"


def iter_samples(
    samples: Samples,
    *,
    table_key: str | None = None,
    add_table: Callable[[SpatialData], None] | None = None,
    writes: bool = False,
) -> Iterator[Sample]:
    """Open samples one at a time.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these.
    table_key
        Table to use; may be left out when there is one.
    add_table
        Called with an object that has no table; None: such an object is an error.
    writes
        Whether the caller saves the samples. Stores that are read-only are then an error before the first is opened,
        and nobody else can save a store from its opening until the next sample is asked for. Such a call stands in the
        head of a ``for`` loop, so that an error in the loop lets go of the store; a name would keep it.
    """
    items = as_list(samples, writes=writes)
    stems = Counter(item.stem for item in items if isinstance(item, Path))
    for index, item in enumerate(items):
        real = item.resolve() if writes and isinstance(item, Path) and item.parent.is_dir() else None
        with nullcontext() if real is None else replacing(real):
            if isinstance(item, Path):
                if not item.exists():
                    raise FileNotFoundError(f"samples: there is no store at {str(item)!r}.")
                if not is_store(item):
                    raise ValueError(f"samples: {str(item)!r} is not a zarr store. Expected {_EXPECTED}.")
                sdata, path = read_zarr(item), item
            else:
                sdata, path = item, None
            name = _name(sdata, path, "sample" if len(items) == 1 else f"sample {index}", stems)
            if not sdata.tables and add_table is not None:
                add_table(sdata)
            key = _table_key(sdata, name, table_key)
            yield Sample(name, sdata, path, key, None if real is None else stamp(real, [f"tables/{key}"]))


def _name(sdata: SpatialData, path: Path | None, number: str, stems: Counter[str]) -> str:
    """Name a sample by what its reader recorded, else by its store (and folder, if names repeat), else by number."""
    recorded = sdata.attrs.get(_keys.UNS, {}).get("sample")
    if recorded:
        return str(recorded)
    if path is not None:
        return path.stem if stems[path.stem] == 1 else f"{path.resolve().parent.name}/{path.stem}"
    return number if sdata.path is None else Path(sdata.path).stem


def _table_key(sdata: SpatialData, name: str, table_key: str | None) -> str:
    tables = list(sdata.tables)
    if table_key is not None:
        if check_text("table_key", table_key) not in tables:
            raise KeyError(f"{name}: table_key={table_key!r} is not there; tables: {shorten(tables) or 'none'}.")
        return table_key
    if len(tables) == 1:
        return tables[0]
    if not tables:
        raise ValueError(
            f"{name}: there is no table to write into. For spots without expression, "
            "sp.pp.patches(samples, shapes_key=...) makes one of width 0."
        )
    raise ValueError(f"{name}: there are several tables, {shorten(tables)}; choose one with table_key=.")


def add_empty_table(sdata: SpatialData, shapes_key: str) -> None:
    """Add a table of width 0 that annotates all spots of ``shapes_key``."""
    ids = sdata.shapes[shapes_key].index
    obs = pd.DataFrame(
        {"region": pd.Categorical([shapes_key] * len(ids)), "spot_id": ids.to_numpy()}, index=ids.astype(str)
    )
    table = ad.AnnData(csr_matrix((len(ids), 0), dtype=np.float32), obs=obs)
    sdata.tables[_keys.TABLE] = TableModel.parse(table, region=shapes_key, region_key="region", instance_key="spot_id")
    logger.info("added tables[%r] of width 0 for the %d spots of shapes[%r]", _keys.TABLE, len(ids), shapes_key)
