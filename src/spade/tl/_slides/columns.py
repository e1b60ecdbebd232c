"""What the types of columns say of their values, which are read as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from spade._samples.obs import value_strings

#: What pandas calls columns of numbers.
NUMBERS = ("integer", "floating", "mixed-integer-float", "decimal")


class ColumnKind(NamedTuple):
    """Whether a column holds numbers, and the categories of an ordered categorical in order (empty: no order)."""

    numbers: bool
    order: tuple[str, ...]


def column_kind(column: pd.Series) -> ColumnKind | None:
    """Return the kind of a column; None if it has no value."""
    if not column.notna().any():
        return None
    if isinstance(column.dtype, pd.CategoricalDtype):
        categories = value_strings(column.cat.categories.to_series()) if column.cat.ordered else ()
        return ColumnKind(numbers=False, order=tuple(name for name in categories if name))
    return ColumnKind(pd.api.types.infer_dtype(column, skipna=True) in NUMBERS, ())


def joined_kind(kinds: Sequence[ColumnKind | None]) -> ColumnKind:
    """Return the kind of the columns of several samples.

    One column of numbers makes all numbers. The order is the longest one if all have an order, each a part of it.
    """
    known = [kind for kind in kinds if kind is not None]
    order = max((kind.order for kind in known), key=len, default=())
    ordered = all(kind.order and _is_part(kind.order, order) for kind in known)
    return ColumnKind(any(kind.numbers for kind in known), order if ordered else ())


def _is_part(some: Sequence[str], order: Sequence[str]) -> bool:
    """Whether names stand in an order, none of them missing from it."""
    places = [order.index(name) for name in some if name in order]
    return len(places) == len(some) and places == sorted(places)
