"""Elements of an object that take the place of earlier ones, and columns that squares carry."""

from __future__ import annotations

import warnings

import pandas as pd
from anndata import AnnData
from geopandas import GeoDataFrame
from spatialdata import SpatialData, get_element_annotators
from xarray import DataTree


def put(sdata: SpatialData, element: str, value: GeoDataFrame | AnnData | DataTree) -> None:
    """Add an element, such as ``"shapes/tiles"``, or put it in the place of an earlier one."""
    kind, name = element.split("/")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*overwrit", category=UserWarning)
        getattr(sdata, kind)[name] = value


def written_columns(now: pd.DataFrame, before: pd.DataFrame) -> list[str]:
    """Return the columns that are new or have other values, and that shapes can be stored with: numbers and text."""
    written = [name for name in now if name not in before or not now[name].equals(before[name])]
    return [name for name in written if name != "geometry" and _is_plain(now[name])]


def _is_plain(column: pd.Series) -> bool:
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    return pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.infer_dtype(values, skipna=True) == "string"


def carry(sdata: SpatialData, element: str, columns: pd.DataFrame) -> bool:
    """Put columns on the shapes of the same ids; return whether that changed these.

    Shapes that a table annotates, as that of tiles does, are left alone: they have the columns of the table.
    """
    if element not in sdata.shapes or get_element_annotators(sdata, element):
        return False
    shapes = sdata.shapes[element]
    carried = columns.reindex(shapes.index)
    if all(name in shapes and shapes[name].equals(carried[name]) for name in carried):
        return False
    put(sdata, f"shapes/{element}", shapes.assign(**{name: carried[name] for name in carried}))
    return True
