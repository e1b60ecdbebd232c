"""Opening what users pass as ``samples``, one sample at a time."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from spatialdata import SpatialData
from spatialdata.models import TableModel

from spade import _keys
from spade._checks import shorten
from spade._samples.given.columns import add_columns
from spade._samples.given.features import check_features, open_features
from spade._samples.listed import Listed
from spade._samples.sample import Opened, Sample, content_digest
from spade.core.checks import check_text
from spade.io._atomic import check_writable, replacing
from spade.io._cohort.items import EXPECTED, Samples, items_of
from spade.io._cohort.lazy import LazySample
from spade.io._cohort.places import Item, NamedSample, bare, feature_path, is_features, may_be_skipped, place_of
from spade.io._feature_files import feature_shape
from spade.io._files.damaged import DamagedFileError
from spade.io._files.store import read_store
from spade.io._store import is_store, stamp

logger = logging.getLogger("spade")


def as_list(samples: Samples, argument: str = "samples", *, writes: bool = False) -> Listed[Item]:
    """Return the samples of an argument one by one, and the keys of a dict as names; stores must be there.

    A ``SpatialData``; a sample of :func:`spade.io.hest_cohort`; a path to a zarr store or feature file, or to a folder
    of these, a pattern or a sample sheet; a ``DataFrame`` in the form of a sheet; an iterable of these; or a dict from
    name to one sample. They stay unopened, but must be writable if they are written, as feature files never are. A
    function that opens them more than once passes this list to :func:`iter_samples`, which then finds rows that were
    changed in between.
    """
    items = items_of(samples, argument)
    places = [place_of(item) for item in items]
    if len({id(bare(item)) if at is None else at.resolve() for item, at in zip(items, places, strict=True)}) < len(
        items
    ):
        raise ValueError(f"{argument}: the same object or path is listed more than once.")
    for item, at in zip(items, places, strict=True):
        if at is None:
            continue
        if not isinstance(bare(item), LazySample):
            _check_place(at, argument, damaged=may_be_skipped(item))
        elif writes:
            at.parent.mkdir(parents=True, exist_ok=True)
        if writes and not is_features(item):
            check_writable(at.resolve())
    check_features(items, argument, writes=writes)
    return samples if isinstance(samples, Listed) else _listed(items)


def _listed(items: list[Item]) -> Listed[Item]:
    """Return a list of the samples, without feature files that cannot be read and may be skipped."""
    listed = Listed(items)
    for number, item in enumerate(items):
        if is_features(item) and may_be_skipped(item):
            try:
                feature_shape(feature_path(item))
            except DamagedFileError as error:
                if not listed.leave_out(number, error):
                    raise
    return Listed(listed.readable) if listed.left_out else listed


def _check_place(path: Path, argument: str, *, damaged: bool) -> None:
    """Raise unless there is a store, which may be ``damaged``, or a feature file."""
    if not path.exists():
        raise FileNotFoundError(f"{argument}: there is no {'file' if is_features(path) else 'store'} at {str(path)!r}.")
    if not (is_features(path) or is_store(path) or (damaged and path.is_dir())):
        raise ValueError(f"{argument}: {str(path)!r} is not a zarr store. Expected {EXPECTED}.")


def iter_samples(
    samples: Samples,
    *,
    table_key: str | None = None,
    add_table: Callable[[SpatialData], None] | None = None,
    writes: bool = False,
    tables_only: bool = False,
    frees: bool = False,
) -> Iterator[Sample]:
    """Open samples one at a time.

    Parameters
    ----------
    samples
        As in :func:`as_list`; feature files only if nothing is written.
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
    frees
        Whether a store that the caller has let go of is out of memory before the next is read. This costs a tenth of a
        second: objects of SpatialData are in cycles, and wait for the garbage collector.
    """
    items = as_list(samples, writes=writes)
    if writes:
        items.check_stores()
    for found in _open(items, writes=writes, tables_only=tables_only):
        name, sdata, path = found.name, found.sdata, found.path
        if not sdata.tables and add_table is not None:
            add_table(sdata)
        key = table_key_of(sdata, name, table_key)
        if not sdata.tables[key].n_obs:
            raise ValueError(f"{name}: tables[{key!r}] has no rows left; leave the sample out.")
        watched = (f"tables/{key}",)
        at_start = stamp(path.resolve(), watched) if writes and path is not None else None
        before = sdata.tables[key].obs.copy() if writes else None
        sample = Sample(
            name, sdata, path, watched, at_start, key, before=before, file=found.file, pictures=found.pictures
        )
        items.check_rows(found.number, sample)
        add_columns(sample, found.columns)
        yield sample
        if frees and path is not None:
            del found, sdata, sample
            gc.collect()


def iter_slides(samples: Samples, *watched: str, writes: bool = False) -> Iterator[Opened]:
    """Open objects one at a time that need no table, as :func:`iter_samples` does; feature files are refused.

    ``watched`` are elements that the caller writes, such as ``"shapes/tissue"``.
    """
    items = as_list(samples, writes=writes)
    if is_features(items[0]):
        raise ValueError(
            f"samples: {str(bare(items[0]))!r} is a feature file, which has no image. Pass the slide, which "
            "sp.io.read_wsi reads, or the slide with these patches: sp.io.from_trident(slide, file)."
        )
    for _, name, sdata, path, *_ in _open(items, writes=writes):
        at_start = stamp(path.resolve(), watched) if writes and path is not None else None
        yield Opened(name, sdata, path, watched, at_start)


class _Found(NamedTuple):
    """An object that was opened, with its store, or the feature file that it stands for, and columns of a sheet.

    ``number`` is its place in the list, in which samples that cannot be read may have been left out.
    """

    number: int
    name: str
    sdata: SpatialData
    path: Path | None
    file: Path | None
    columns: Mapping[str, Any]
    pictures: tuple[Path, ...] = ()


def _open(items: Listed[Item], *, writes: bool, tables_only: bool = False) -> Iterator[_Found]:
    """Open objects one at a time; nobody else saves a store meanwhile if it is written.

    A sample that may be skipped is opened as a whole, so that all loops over the list leave the same ones out.
    """
    stems = Counter(path.stem for path in map(_unnamed_path, items) if path is not None)
    for number, listed in enumerate(items):
        if number in items.left_out:
            continue
        item, path = bare(listed), place_of(listed)
        given, columns = (listed.name, listed.columns) if isinstance(listed, NamedSample) else ("", {})
        file = path if is_features(listed) else None
        with nullcontext() if path is None or not writes else replacing(path.resolve()):
            try:
                sdata = _opened(item, writes=writes, tables_only=tables_only and not may_be_skipped(listed))
            except (DamagedFileError, FileNotFoundError) as error:
                if items.leave_out(number, error):
                    continue
                if len(items) > 1 and not may_be_skipped(listed):
                    error.add_note('To go on without such samples, pass sp.io.cohort(samples, on_damaged="skip").')
                raise
            pictures = item.pictures() if isinstance(item, LazySample) else ()
            name = given or (_name(sdata, path, stems) if file is None else file.stem)
            yield _Found(number, name, sdata, path if file is None else None, file, columns, pictures)
            del sdata  # before the next is read


def _opened(item: SpatialData | Path | LazySample, *, writes: bool, tables_only: bool) -> SpatialData:
    """Return the object of a sample."""
    if isinstance(item, SpatialData):
        return item
    if isinstance(item, Path):
        return open_features(item) if is_features(item) else read_store(item, tables_only=tables_only)
    if writes:
        item.make_store()
    return item.open(tables_only=tables_only)


def _unnamed_path(item: Item) -> Path | None:
    """Return the path of a sample that is named by it."""
    path = bare(item)
    return None if not isinstance(path, Path) or (isinstance(item, NamedSample) and item.name) else path


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


def table_key_of(sdata: SpatialData, name: str, table_key: str | None, *, besides: str | None = None) -> str:
    """Return the table that was named, or the only one (``besides`` one that the caller made); raise if unclear."""
    tables = [key for key in sdata.tables if key != besides or key == table_key]
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
