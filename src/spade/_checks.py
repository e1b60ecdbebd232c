"""Checks of result tables and unused settings, and how messages list things."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from numbers import Number
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade.core.checks import brief, check_count, check_text

logger = logging.getLogger("spade")

#: Columns of results in which an empty string stands for no value.
MAY_BE_EMPTY = ("label", "section", "query_sample", "query_section", "direction")
#: Texts that stand for no label, spaces around them aside: what programs write for a missing value. ``None`` is not
#: among them, because it may be a class, as of a grade or an invasion.
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "<NA>", "NULL", "null")


def clean_label(value: str) -> str:
    """Return a label without the spaces around it, ``""`` if it is one of :data:`MISSING`."""
    label = value.strip()
    return "" if label in MISSING else label


def value_strings(column: pd.Series) -> NDArray[np.object_]:
    """Return values as strings, ``""`` where missing: the rule by which all labels and groups are read.

    Spaces around a label do not count. An empty text and the texts that programs write for a missing value
    (:data:`MISSING`: ``NA``, ``N/A``, ``nan``, ``null`` ...) are missing, as NaN and None are; the text
    ``None`` is a label. A whole number that became a float, as in a column with missing values, is written as a whole
    number again, so that it has the same name in every sample.
    """

    def text(value: Any) -> str:
        whole = isinstance(value, (float, np.floating)) and value.is_integer()
        return clean_label(str(int(value) if whole else value))

    return column.astype(object).map(text, na_action="ignore").where(column.notna(), "").to_numpy(dtype=object)


def check_idle(settings: Iterable[tuple[str, object, object]], reason: str) -> None:
    """Raise if settings, given as name, value and default, were changed although they change nothing."""
    if idle := [(name, value) for name, value, default in settings if not _is(value, default)]:
        listed = ", ".join(f"{name}={brief(value)}" for name, value in idle)
        raise ValueError(f"{listed}: {reason}; leave {', '.join(f'{name}=' for name, _ in idle)} out.")


def _is(value: object, default: object) -> bool:
    """Whether a value is the default, or a plain value equal to it."""
    return value is default or (isinstance(value, (Number, np.generic, str, tuple, PathLike)) and value == default)


def check_counts(name: str, value: object) -> list[int]:
    """Return one or several different numbers in increasing order; raise unless all are whole and at least 1."""
    counts = [value] if np.isscalar(value) or not isinstance(value, Iterable) else list(value)
    if not counts:
        raise ValueError(f"{name}={brief(value)}: expected at least one whole number.")
    return sorted({check_count(name, count) for count in counts})


def check_classes(labels: NDArray[np.str_] | NDArray[np.object_], label_key: str) -> list[str]:
    """Return the names of the classes in order, ``""`` (no label) aside; raise unless there are at least two."""
    classes = sorted(set(labels.tolist()) - {""})
    if len(classes) < 2:
        there = f"all labels are {classes[0]!r}" if classes else "there are no labels"
        raise ValueError(f"label_key={label_key!r}: {there}; classification needs at least two classes.")
    return classes


def check_table(table: object, columns: Sequence[str], made_by: str) -> pd.DataFrame:
    """Return a result, or raise if it lacks columns or rows.

    Empty strings that became missing on the way through a file are restored.
    """
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table: got {type(table).__name__}; expected what {made_by} returned.")
    if missing := [name for name in columns if name not in table]:
        raise ValueError(
            f"table lacks {shorten(missing)}; columns: {shorten(table.columns, 20)}. Pass what {made_by} returned."
        )
    if table.empty:
        raise ValueError(f"table is empty; pass what {made_by} returned.")
    emptied = [name for name in MAY_BE_EMPTY if name in table and table[name].isna().any()]
    return table.assign(**{name: table[name].astype(object).fillna("") for name in emptied})


def check_baseline(baseline: object, names: Sequence[str], what: str) -> None:
    """Raise if the baseline of a comparison is not among the names in a result."""
    if check_text("baseline", baseline) not in names:
        raise KeyError(f"baseline={baseline!r} is not in the table; {what}: {shorten(names, 20)}.")


def plural(n: int, noun: str) -> str:
    """Return a count with its noun: ``1 spot``, ``1,200 spots``."""
    return f"{n:,} {noun}{'' if n == 1 else 'es' if noun.endswith('ch') else 's'}"


def shorten(items: Iterable[Any], most: int = 5) -> str:
    """Return the first few items as a list for a message, and their number if some are left out."""
    listed = [item.item() if isinstance(item, np.generic) else item for item in items]
    return ", ".join(map(repr, listed[:most])) + (f", … ({len(listed)} in all)" if len(listed) > most else "")


def check_pairs(table: object, columns: Sequence[str], made_by: str) -> pd.DataFrame:
    """Check as :func:`check_table`, and raise if the first two columns do not identify the rows."""
    checked = check_table(table, columns, made_by)
    if checked.duplicated(list(columns[:2])).any():
        raise ValueError(
            f"table: pairs of {columns[0]} and {columns[1]} occur more than once, as in concatenated tables; draw them "
            "one by one."
        )
    return checked


def log_left_out(function: str, total: int, counts: dict[str, int]) -> None:
    """Log how many of ``total`` spots are left out for which reason, if any are."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    if reasons:
        logger.info("%s: of %d spots are left out: %s", function, total, reasons)
