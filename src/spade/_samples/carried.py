"""Columns of ``obs`` on the squares of their rows, so that viewers colour squares by them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import anndata as ad
import pandas as pd
from geopandas import GeoDataFrame
from spatialdata import SpatialData, get_element_annotators

from spade import _keys


def carry_columns(
    sdata: SpatialData, table: ad.AnnData, rows_by_region: dict[str, pd.Index], before: pd.DataFrame
) -> list[str]:
    """Put the ``obs`` columns that a function wrote, and those that are there already, on the squares around the spots.

    A table annotates its spots, and so no other shapes. Tiles have a table of their own, which annotates them.

    Parameters
    ----------
    sdata, table
        The object and its table.
    rows_by_region
        Instance ids of the rows of every region, by position in the table.
    before
        ``obs`` as it was when the function began.

    Returns
    -------
    Elements that changed, such as ``"shapes/patches"``.
    """
    obs = table.obs
    written = {name for name in obs if name not in before or not obs[name].equals(before[name])} | {_keys.VALID}
    changed = []
    for record in table.uns.get(_keys.UNS, {}).values():
        for region, facts in record.get("regions", {}).items():
            element = facts["element"]
            if region not in rows_by_region or element not in sdata.shapes or get_element_annotators(sdata, element):
                continue
            squares = sdata.shapes[element]
            names = [name for name in obs if (name in written or name in squares) and _drawable(obs[name])]
            ids = rows_by_region[region]
            carried = obs.loc[ids.index, names].set_axis(ids.to_numpy()).reindex(squares.index)
            if not all(name in squares and squares[name].equals(carried[name]) for name in names):
                _replace(sdata, element, squares.assign(**carried))
                changed.append(f"shapes/{element}")
    return changed
