"""Checks of the tables that plots are drawn from."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd


def check_table(table: object, columns: Sequence[str], made_by: str) -> None:
    """Raise if this is no table with these columns, if it is empty, or if the first two do not tell its rows apart."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table: got {type(table).__name__}; expected the DataFrame that {made_by} returns.")
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(
            f"table lacks the columns {missing}; columns: {list(table.columns)}. Pass what {made_by} returned."
        )
    if table.empty:
        raise ValueError(f"table is empty; pass what {made_by} returned.")
    if table.duplicated(list(columns[:2])).any():
        raise ValueError(
            f"table: pairs of {columns[0]} and {columns[1]} occur more than once, as when tables are put together; draw them one by "
            "one."
        )
