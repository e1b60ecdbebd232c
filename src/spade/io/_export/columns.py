"""Labels, their colours and numbers of the rows that are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade import _keys
from spade._checks import check_idle, shorten, value_strings
from spade.core.checks import brief
from spade.io._export.elements import Source
from spade.io._files.matrices import to_dense

if TYPE_CHECKING:
    from anndata import AnnData

HEX = re.compile(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})(?:[0-9a-fA-F]{2})?")


def read_labels(source: Source, color: str) -> tuple[list[str], dict[str, tuple[int, int, int]]]:
    """Return the label of every row, ``""`` where it is missing, and the colours of labels that have one."""
    frame = source.shapes if source.table is None else source.table.obs
    if color not in frame or color == "geometry":
        columns = [name for name in frame if name != "geometry"]
        raise KeyError(f"color={color!r} is not a column; there are {shorten(columns, 20) or 'none'}.")
    _check_current(source, color)
    column = frame[color].iloc[source.rows]
    if pd.api.types.is_float_dtype(column.dtype) and (column.dropna() % 1 != 0).any():
        raise TypeError(
            f"color={color!r} is a column of numbers such as {shorten(column.dropna(), 2)}; classes need categories. "
            "Write it with measurements=, or cut it into ranges first, as with pandas.cut."
        )
    return value_strings(column).tolist(), _colours(source, color, frame[color])


def _colours(source: Source, color: str, column: pd.Series) -> dict[str, tuple[int, int, int]]:
    """Return the colours that ``uns`` has for the categories of a column."""
    stored = None if source.table is None else source.table.uns.get(f"{color}_colors")
    if stored is None or not isinstance(column.dtype, pd.CategoricalDtype) or len(stored) != len(column.cat.categories):
        return {}
    names = value_strings(column.cat.categories.to_series())
    found = {name: _rgb(str(colour), color) for name, colour in zip(names, stored, strict=True)}
    return {name: colour for name, colour in found.items() if name}


def _rgb(colour: str, color: str) -> tuple[int, int, int]:
    """Return red, green and blue of a colour as matplotlib names them."""
    if (parts := HEX.fullmatch(colour)) is not None:
        red, green, blue = (int(part, 16) for part in parts.groups())
        return red, green, blue
    from matplotlib.colors import to_rgb

    try:
        red, green, blue = (round(255 * part) for part in to_rgb(colour))
    except ValueError as error:
        raise ValueError(f"uns['{color}_colors'] has {colour!r}, which is no colour; expected '#rrggbb'.") from error
    return red, green, blue


def read_numbers(
    source: Source, names: Sequence[str], layer: str | None
) -> tuple[list[NDArray[np.floating]], list[str]]:
    """Return blocks ``(n, k)`` of columns, genes and ``obsm`` keys, and what all their columns are called."""
    if layer is not None and (source.table is None or layer not in source.table.layers):
        listed = () if source.table is None else source.table.layers
        known = [key for key in listed if key is not None]  # newer versions of anndata list X as None
        raise KeyError(f"layer={layer!r} is not there; layers: {shorten(known) or 'none'}.")
    blocks: list[NDArray[np.floating]] = []
    called: list[str] = []
    for name in names:
        block, columns = _numbers(source, name, layer)
        blocks.append(block)
        called += columns
    if layer is not None and source.table is not None and not set(names) & {*source.table.var_names}:
        check_idle([("layer", layer, None)], f"measurements={brief(list(names))} has no gene")
    if len(set(called)) < len(called):
        twice = sorted({name for name in called if called.count(name) > 1})
        raise ValueError(f"measurements= has {shorten(twice)} more than once.")
    return blocks, called


def _numbers(source: Source, name: str, layer: str | None) -> tuple[NDArray[np.floating], list[str]]:
    """Return the numbers ``(n, k)`` of one column, gene or ``obsm`` key, and their names."""
    table = source.table
    frame = source.shapes.drop(columns="geometry") if table is None else table.obs
    places = (
        {"obs": frame.columns} if table is None else {"obs": frame, "var_names": table.var_names, "obsm": table.obsm}
    )
    found = [place for place, known in places.items() if name in known]
    if len(found) != 1:
        if found:
            raise ValueError(f"measurements={name!r} is in {' and in '.join(found)}. Rename one of them.")
        listed = shorten([*frame.columns, *(() if table is None else table.obsm)], 20)
        raise KeyError(
            f"measurements={name!r} is neither a column nor a gene nor an obsm key; there are {listed or 'none'}."
        )
    _check_current(source, name)
    if table is None or found == ["obs"]:
        column = frame[name].iloc[source.rows]
        if not pd.api.types.is_numeric_dtype(column.dtype):
            raise TypeError(f"measurements={name!r} is a column of {column.dtype}, not of numbers; use color=.")
        return column.to_numpy(dtype=np.float64, na_value=np.nan)[:, None], [name]
    if found == ["obsm"]:
        return _embedding(table, source, name)
    if not table.var_names.is_unique and (table.var_names == name).sum() > 1:
        raise ValueError(f"measurements={name!r}: several genes have this name. Make var_names unique.")
    matrix = table.X if layer is None else table.layers[layer]
    values = matrix[:, [table.var_names.get_loc(name)]][source.rows]
    return to_dense(values, name), [name]


def _embedding(table: AnnData, source: Source, name: str) -> tuple[NDArray[np.floating], list[str]]:
    """Return the rows of an ``obsm`` key, and the names of its columns."""
    values: Any = table.obsm[name]
    width = values.shape[1]
    columns = list(values.columns) if isinstance(values, pd.DataFrame) else list(range(width))
    genes = table.uns.get(f"{name.removeprefix('X_')}_genes")
    if genes is not None and len(genes) == width:
        columns = list(genes)
    held = values.iloc[source.rows] if isinstance(values, pd.DataFrame) else values[source.rows]
    double = isinstance(held, np.ndarray) and held.dtype == np.float64
    return held if double else to_dense(held, f"obsm[{name!r}]"), [f"{name}: {column}" for column in columns]


def _check_current(source: Source, key: str) -> None:
    """Raise if a result was made from what was written anew since."""
    if source.table is not None and (stale := _keys.outdated(source.table.uns, key)) is not None:
        raise ValueError(f"{key!r} is outdated: {stale[1]!r} was written anew after {stale[0]!r} was made from it.")
