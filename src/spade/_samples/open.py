"""Opening what users pass as ``samples``, one sample at a time."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from spatialdata import SpatialData
from spatialdata.models import TableModel

from spade import _keys
from spade._checks import shorten
from spade._samples.listed import Listed
from spade._samples.sample import Opened, Sample, content_digest
from spade.core.checks import check_ordered, check_path, check_text
from spade.io._atomic import check_writable, replacing
from spade.io._files.store import read_store
from spade.io._store import is_store, stamp
from spade.models import SealModel, SpadeModel

logger = logging.getLogger("spade")
#: Iterables that are no lists of samples.
NOT_LISTS = (ad.AnnData, pd.DataFrame, bytes)


@dataclass(frozen=True)
class NamedSample:
    """A sample that the caller named, as in a dict from name to sample."""

    name: str
    item: SpatialData | Path


#: A sample that may not be opened yet.
Item: TypeAlias = SpatialData | Path | NamedSample
_One: TypeAlias = SpatialData | str | PathLike[str]
Samples: TypeAlias = _One | Mapping[str, _One] | Iterable[_One | NamedSample]
_EXPECTED = "a SpatialData, a path to a .zarr store, or an iterable of these (or a dict that names them)"


def as_list(samples: Samples, argument: str = "samples", *, writes: bool = False) -> Listed[Item]:
    """Return the samples of an argument one by one, and the keys of a dict as names; stores must be there.

    They stay unopened, but must be writable if they are written. A function that opens them more than once passes this
    list to :func:`iter_samples`, which then finds rows that were changed in between.
    """
    check_ordered(argument, samples)
    given = samples
    if isinstance(samples, (SpatialData, str, PathLike)):
        samples = [samples]
    if isinstance(samples, Mapping):
        named = {check_text(f"{argument}: name", name): item for name, item in samples.items()}
        items: list[Item] = [NamedSample(name, _item(item, argument, repr(name))) for name, item in named.items()]
    elif isinstance(samples, NOT_LISTS) or not isinstance(samples, Iterable):
        raise TypeError(f"{argument}: got {_kind(samples)}; expected {_EXPECTED}.{_advice(samples)}")
    else:
        items = [
            item if isinstance(item, NamedSample) else _item(item, argument, str(number))
            for number, item in enumerate(samples)
        ]
    if not items:
        raise ValueError(f"{argument} is empty; expected {_EXPECTED}.")
    unnamed = [item.item if isinstance(item, NamedSample) else item for item in items]
    if len({id(item) if isinstance(item, SpatialData) else item.resolve() for item in unnamed}) < len(items):
        raise ValueError(f"{argument}: the same object or path is listed more than once.")
    for path in unnamed:
        if isinstance(path, Path):
            if not path.exists():
                raise FileNotFoundError(f"{argument}: there is no store at {str(path)!r}.")
            if not is_store(path):
                raise ValueError(f"{argument}: {str(path)!r} is not a zarr store. Expected {_EXPECTED}.")
            if writes:
                check_writable(path.resolve())
    return given if isinstance(given, Listed) else Listed(items)


def _item(item: object, argument: str, which: str) -> SpatialData | Path:
    """Return one sample: an object as it is, or a path."""
    if isinstance(item, SpatialData):
        return item
    if isinstance(item, (str, PathLike)):
        return check_path(argument, item)
    raise TypeError(f"{argument}: item {which} is {_kind(item)}; expected {_EXPECTED}.{_advice(item)}")


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _advice(value: object) -> str:
    """Return what to do with an object that is often passed instead of a sample."""
    if isinstance(value, ad.AnnData):
        return " A table alone becomes one with SpatialData(tables={'table': adata})."
    if isinstance(value, (SpadeModel, SealModel)):
        return " A model is passed as model=, after the samples."
    return ""


def iter_samples(
    samples: Samples,
    *,
    table_key: str | None = None,
    add_table: Callable[[SpatialData], None] | None = None,
    writes: bool = False,
    tables_only: bool = False,
) -> Iterator[Sample]:
    """Open samples one at a time.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, an iterable of these, or a dict from name to one of these.
    table_key
        Table to use; may be left out when there is one.
    add_table
        Called with an object that has no table; None: such an object is an error.
    writes
        Whether the caller saves the samples. Stores that are read-only, or whose rows were changed since they were
        opened from the same list (see :func:`as_list`), are then an error before the first is opened. Nobody else can
        save a store from its opening until the next sample is asked for. Such a call stands in the head of a ``for``
        loop, so that an error in the loop lets go of the store; a name would keep it.
    tables_only
        Whether a store is opened without images and shapes, for functions that need neither.
    """
    items = as_list(samples, writes=writes)
    if writes:
        items.check_stores()
    for number, (name, sdata, path) in enumerate(_open(items, writes=writes, tables_only=tables_only)):
        if not sdata.tables and add_table is not None:
            add_table(sdata)
        key = _table_key(sdata, name, table_key)
        if not sdata.tables[key].n_obs:
            raise ValueError(f"{name}: tables[{key!r}] has no rows left; leave the sample out.")
        watched = (f"tables/{key}",)
        at_start = stamp(path.resolve(), watched) if writes and path is not None else None
        before = sdata.tables[key].obs.copy() if writes else None
        sample = Sample(name, sdata, path, watched, at_start, key, before)
        items.check_rows(number, sample)
        yield sample


def iter_slides(samples: Samples, *watched: str, writes: bool = False) -> Iterator[Opened]:
    """Open objects one at a time that need no table, as :func:`iter_samples` does.

    ``watched`` are elements that the caller writes, such as ``"shapes/tissue"``.
    """
    for name, sdata, path in _open(as_list(samples, writes=writes), writes=writes):
        at_start = stamp(path.resolve(), watched) if writes and path is not None else None
        yield Opened(name, sdata, path, watched, at_start)


def _open(
    items: Listed[Item], *, writes: bool, tables_only: bool = False
) -> Iterator[tuple[str, SpatialData, Path | None]]:
    """Open objects one at a time, with their names and paths; nobody else saves a store meanwhile if it is written."""
    stems = Counter(item.stem for item in items if isinstance(item, Path))
    for listed in items:
        item = listed.item if isinstance(listed, NamedSample) else listed
        real = item.resolve() if writes and isinstance(item, Path) else None
        with nullcontext() if real is None else replacing(real):
            sdata, path = (read_store(item, tables_only=tables_only), item) if isinstance(item, Path) else (item, None)
            yield listed.name if isinstance(listed, NamedSample) else _name(sdata, path, stems), sdata, path


def _name(sdata: SpatialData, path: Path | None, stems: Counter[str]) -> str:
    """Name a sample by what was recorded, else by its store (and folder, if names repeat), else by its content.

    No name depends on the order of a list, or on what else is in it; content is that of spots and table.
    """
    recorded = sdata.attrs.get(_keys.UNS, {}).get("sample")
    if recorded:
        return str(recorded)
    if path is not None:
        return path.stem if stems[path.stem] == 1 else f"{path.resolve().parent.name}/{path.stem}"
    return f"sample {content_digest(sdata)[:6]}" if sdata.path is None else Path(sdata.path).stem


def _table_key(sdata: SpatialData, name: str, table_key: str | None) -> str:
    tables = list(sdata.tables)
    if table_key is not None:
        of_tiles = _keys.tile_table(check_text("table_key", table_key))
        if table_key not in tables and of_tiles in tables:
            return of_tiles
        if table_key not in tables:
            raise KeyError(f"{name}: table_key={table_key!r} is not there; tables: {shorten(tables) or 'none'}.")
        return table_key
    if len(tables) == 1:
        return tables[0]
    if not tables:
        raise ValueError(
            f"{name}: there is no table to write into. For spots without expression, "
            "sp.pp.patches(samples, shapes_key=...) makes one of width 0; for a slide without spots, sp.pp.tiles."
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
