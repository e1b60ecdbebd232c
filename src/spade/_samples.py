"""From what a user passes as ``samples`` to checked tables, sections and arrays."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse
from spatialdata import SpatialData, read_zarr
from spatialdata.models import TableModel, get_table_keys

from spade import _keys
from spade._checks import shorten
from spade.io._store import is_store, replace_elements

logger = logging.getLogger("spade")
Samples: TypeAlias = SpatialData | str | PathLike[str] | Iterable[SpatialData | str | PathLike[str]]


@dataclass(frozen=True)
class Section:
    """The spots of one region: one tissue section on one image."""

    name: str
    region: str
    rows: NDArray[np.int64]
    ids: pd.Index


@dataclass
class Sample:
    """One object with its table; ``path`` is set when it was given as a path and must be saved there."""

    name: str
    sdata: SpatialData
    path: Path | None
    table_key: str

    @property
    def table(self) -> ad.AnnData:
        """The table that is read and written."""
        return self.sdata.tables[self.table_key]

    @property
    def has_expression(self) -> bool:
        """Whether the table has any genes."""
        return bool(self.table.n_vars)

    @cached_property
    def sections(self) -> list[Section]:
        """One entry per region of the table; raises on duplicated instance ids."""
        regions, region_key, instance_key = table_keys(self.table, self.name, self.table_key)
        found = []
        for region in regions:
            rows = np.flatnonzero((self.table.obs[region_key] == region).to_numpy())
            ids = pd.Index(self.table.obs[instance_key].to_numpy()[rows])
            if not ids.is_unique:
                repeated = ids[ids.duplicated()].unique()
                raise ValueError(
                    f"{self.name}: tables[{self.table_key!r}].obs[{instance_key!r}] has {len(repeated)} instance ids "
                    f"more than once in region {region!r}, such as {shorten(repeated)}. Rows are joined to spots by "
                    "these ids; make them unique."
                )
            name = self.name if len(regions) == 1 else f"{self.name}/{region}"
            found.append(Section(name, region, rows, ids))
        return found

    def section_of_row(self) -> NDArray[np.str_]:
        """Name of the section of every row."""
        names = np.full(self.table.n_obs, "", dtype=object)
        for section in self.sections:
            names[section.rows] = section.name
        return names.astype(str)

    def origin(self, section: Section) -> str:
        """What tells a section from all others, however they are named: its store or object, and its region."""
        path = self.path or self.sdata.path
        return f"{id(self.sdata) if path is None else Path(path).resolve()}\n{section.region}"

    def save(self, *elements: str) -> None:
        """Write the table (and further elements, such as ``"shapes/patches"``) back if the sample came from a path."""
        if self.path is not None:
            replace_elements(self.sdata, self.path, [*elements, f"tables/{self.table_key}"])


def table_keys(table: ad.AnnData, sample: str, table_key: str) -> tuple[list[str], str, str]:
    """Return the regions of a table, its region column and its instance column."""
    if TableModel.ATTRS_KEY not in table.uns:
        raise ValueError(
            f"{sample}: tables[{table_key!r}] annotates no shapes (it has no uns[{TableModel.ATTRS_KEY!r}]). Parse it "
            "with spatialdata.models.TableModel.parse(table, region=..., region_key=..., instance_key=...)."
        )
    regions, region_key, instance_key = get_table_keys(table)
    return [regions] if isinstance(regions, str) else list(regions), region_key, instance_key


def as_list(samples: Samples) -> list[SpatialData | Path]:
    """Return the samples one by one; paths stay unopened."""
    if isinstance(samples, (SpatialData, str, PathLike)):
        samples = [samples]
    if isinstance(samples, ad.AnnData) or not isinstance(samples, Iterable):
        raise TypeError(f"samples: got {type(samples).__name__}; expected {_EXPECTED}.")
    items: list[SpatialData | Path] = []
    for item in samples:
        if isinstance(item, SpatialData):
            items.append(item)
        elif isinstance(item, (str, PathLike)):
            items.append(Path(item))
        else:
            raise TypeError(f"samples: item {len(items)} is {type(item).__name__}; expected {_EXPECTED}.")
    if not items:
        raise ValueError(f"samples is empty; expected {_EXPECTED}.")
    if len({id(item) if isinstance(item, SpatialData) else item.resolve() for item in items}) < len(items):
        raise ValueError("samples: the same object or path is listed more than once.")
    return items


_EXPECTED = "a SpatialData, a path to a .zarr store, or an iterable of these"


def iter_samples(
    samples: Samples, *, table_key: str | None = None, add_table: Callable[[SpatialData], None] | None = None
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
    """
    items = as_list(samples)
    stems = Counter(item.stem for item in items if isinstance(item, Path))
    for index, item in enumerate(items):
        if isinstance(item, Path):
            if not item.exists():
                raise FileNotFoundError(f"samples: there is no store at {str(item)!r}.")
            if not is_store(item):
                raise ValueError(f"samples: {str(item)!r} is no zarr store. Expected {_EXPECTED}.")
            sdata, path = read_zarr(item), item
        else:
            sdata, path = item, None
        name = _name(sdata, path, "sample" if len(items) == 1 else f"sample {index}", stems)
        if not sdata.tables and add_table is not None:
            add_table(sdata)
        yield Sample(name, sdata, path, _table_key(sdata, name, table_key))


def _name(sdata: SpatialData, path: Path | None, number: str, stems: Counter[str]) -> str:
    """Name of a sample: what its reader recorded, else its store (with its folder where stores are named alike), else its number."""
    recorded = sdata.attrs.get(_keys.UNS, {}).get("sample")
    if recorded:
        return str(recorded)
    if path is not None:
        return path.stem if stems[path.stem] == 1 else f"{path.resolve().parent.name}/{path.stem}"
    return number if sdata.path is None else Path(sdata.path).stem


def check_names(names: Iterable[str], what: str = "samples") -> None:
    """Raise if two samples (or sections) have one name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"samples: two {what} are named {shorten(twice)}; give each its own name (sample_id= of a reader here, or "
            "sdata.attrs['spade'] = {'sample': 'name'} of any object)."
        )


def _table_key(sdata: SpatialData, name: str, table_key: str | None) -> str:
    tables = list(sdata.tables)
    if table_key is not None:
        if table_key not in tables:
            raise KeyError(f"{name}: table_key={table_key!r} is not there; tables: {shorten(tables) or 'none'}.")
        return table_key
    if len(tables) == 1:
        return tables[0]
    if not tables:
        raise ValueError(
            f"{name}: there is no table to write into. For spots without expression add one of width 0 with "
            "sp.pp.patches(samples, shapes_key=...), which makes it."
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


def read_counts(
    sample: Sample, layer: str | None = None, normalized: bool = False, smoothed: bool = True
) -> csr_matrix:
    """Return ``X`` (layer None or ``"X"``) or a layer as CSR float32, checked.

    Raw counts must be finite, non-negative whole numbers; with ``normalized=True`` they must only be finite. Those that
    ``pp.smooth_expression`` averaged need not be whole, unless ``smoothed=False`` asks for counts that are not averaged.
    """
    table = sample.table
    in_x = layer is None or (layer == "X" and layer not in table.layers)
    where = "X" if in_x else f"layers[{layer!r}]"
    if not in_x and layer not in table.layers:
        there = [key for key in table.layers if key is not None]  # which newer anndata lists for X
        raise KeyError(
            f"{sample.name}: layer={layer!r} is not there; layers: {shorten(there) or 'none'} ('X' names X itself)."
        )
    matrix = table.X if in_x else table.layers[layer]
    if matrix is None:
        raise ValueError(f"{sample.name}: {where} of tables[{sample.table_key!r}] is empty; name a layer= with counts.")
    counts = csr_matrix(matrix if issparse(matrix) else np.asarray(matrix), dtype=np.float32)
    values = counts.data
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise ValueError(f"{sample.name}: {where} has {bad} values that are NaN or infinite. Set or remove them first.")
    if not normalized and (len(values) and values.min() < 0):
        raise ValueError(
            f"{sample.name}: {where} has negative values (lowest {values.min():g}), but raw counts are expected. Name the "
            "layer= that holds the counts, or pass normalized=True to use the values as they are."
        )
    averaged = not in_x and _keys.read_provenance(table.uns, str(layer)).get("function") == _keys.SMOOTHING
    if not normalized and not (averaged and smoothed) and not np.array_equal(values, np.round(values)):
        example = values[values != np.round(values)][0]
        raise ValueError(
            f"{sample.name}: {where} has values that are not whole numbers (such as {example:g}), but raw counts are "
            "expected. Name the layer= that holds the counts, or pass normalized=True to use the values as they are."
        )
    if not table.var_names.is_unique:
        repeated = table.var_names[table.var_names.duplicated()].unique()
        raise ValueError(
            f"{sample.name}: {len(repeated)} gene names occur more than once, such as {shorten(repeated)}. Make them "
            "unique (table.var_names_make_unique()) or aggregate them."
        )
    return counts


def read_features(sample: Sample, use_rep: str) -> NDArray[np.float32]:
    """Return ``obsm[use_rep]`` as float32 ``(n_obs, d)``; a row is NaN throughout (no valid patch) or not at all."""
    table = sample.table
    if use_rep not in table.obsm:
        raise KeyError(
            f"{sample.name}: use_rep={use_rep!r} is not in obsm; there is {shorten(table.obsm) or 'nothing'}. Image "
            "features are made by sp.pp.encode_patches(samples)."
        )
    values = table.obsm[use_rep]
    if issparse(values):
        values = values.toarray()
    features = np.asarray(values, dtype=np.float32)
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(
            f"{sample.name}: obsm[{use_rep!r}] has shape {features.shape}; expected (n_obs, d) with d > 0."
        )
    if np.isinf(features).any():
        raise ValueError(f"{sample.name}: obsm[{use_rep!r}] has infinite values. Encode the patches again.")
    missing = np.isnan(features)
    partial = missing.any(1) & ~missing.all(1)
    if partial.any():
        raise ValueError(
            f"{sample.name}: obsm[{use_rep!r}] has NaN in part of {int(partial.sum())} rows, such as "
            f"{shorten(table.obs_names[partial], 3)}. Only rows without a valid patch may be NaN, and then throughout."
        )
    return features


def obs_column(sample: Sample, key: str, argument: str) -> pd.Series:
    """Return an ``obs`` column or raise with the columns there are."""
    if key not in sample.table.obs:
        raise KeyError(
            f"{sample.name}: {argument}={key!r} is not in obs; columns: {shorten(sample.table.obs.columns, 20)}."
        )
    return sample.table.obs[key]


def value_strings(column: pd.Series) -> NDArray[np.object_]:
    """Return values as strings, ``""`` where missing.

    Whole numbers that became floats, as columns with missing values do, are whole numbers again, so that they are called the same in
    every sample.
    """

    def text(value: Any) -> str:
        whole = isinstance(value, (float, np.floating)) and value.is_integer()
        return str(int(value) if whole else value)

    return column.astype(object).map(text, na_action="ignore").where(column.notna(), "").to_numpy(dtype=object)


def category_strings(column: pd.Series, where: str) -> tuple[NDArray[np.object_], list[str]]:
    """Return the category of every row as a string (``""`` where it is missing), and the categories in order."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        known = column.cat.categories.to_series()
    else:
        known = pd.Series(column.dropna().unique()).sort_values()
    if pd.api.types.is_float_dtype(known.dtype) and (known % 1 != 0).any():
        raise TypeError(
            f"{where} is a column of numbers such as {shorten(known, 2)}; expected categories. Cut it into ranges first, as with "
            "pandas.cut."
        )
    return value_strings(column), value_strings(known).tolist()


def group_labels(sample: Sample, groupby: str | None, argument: str = "groupby") -> NDArray[np.str_]:
    """Return the group of every row as strings (the section if None); missing values raise."""
    if groupby is None:
        return sample.section_of_row()
    column = obs_column(sample, groupby, argument)
    if column.isna().any():
        raise ValueError(
            f"{sample.name}: obs[{groupby!r}] is missing for {int(column.isna().sum())} of {len(column)} spots. Fill it in."
        )
    return category_strings(column, f"{sample.name}: {argument}={groupby!r}")[0].astype(str)


def check_free(sample: Sample, key: str) -> None:
    """Raise if writing ``obs[key]`` would break what the table or this package relies on."""
    _, region_key, instance_key = table_keys(sample.table, sample.name, sample.table_key)
    record = _keys.read_provenance(sample.table.uns, key)
    if key in (region_key, instance_key, _keys.VALID) or (record and key not in sample.table.obs):
        raise ValueError(
            f"{sample.name}: a label cannot be written as obs[{key!r}], for this name is in use"
            f"{'' if not record else ' by sp.' + record.get('function', '')}. Choose another with key_added=, or columns= to write."
        )


def categorical(values: Sequence[str] | NDArray[Any], categories: Sequence[str] | None = None) -> pd.Categorical:
    """Return a categorical of strings; empty strings become missing."""
    array: Any = np.array(values, dtype=object)
    present: Any = sorted(set(array.tolist()) - {""}) if categories is None else categories
    array[array == ""] = None
    return pd.Categorical(array, categories=present)
