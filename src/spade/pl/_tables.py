"""Checks of the tables that plots are drawn from."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from spade._checks import check_table


def check_pairs(table: object, columns: Sequence[str], made_by: str) -> pd.DataFrame:
    """As :func:`check_table`; also raise if the first two columns do not tell the rows apart."""
    found = check_table(table, columns, made_by)
    if found.duplicated(list(columns[:2])).any():
        raise ValueError(
            f"table: pairs of {columns[0]} and {columns[1]} occur more than once, as when tables are put together; draw them one by "
            "one."
        )
    return found
