"""Labels in tables: joined to spots by their ids, or by sample to all spots of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade import _keys
from spade._checks import shorten
from spade._samples.sample import Sample
from spade.io._label_table import SAMPLE, SPOT

Ints = NDArray[np.int64]


def chosen_columns(frame: pd.DataFrame, columns: str | Sequence[str] | None, source: str) -> list[str]:
    """Return the columns to write, which a table can hold."""
    there = [column for column in frame.columns if column not in (SAMPLE, SPOT)]
    chosen = there if columns is None else [columns] if isinstance(columns, str) else list(columns)
    unknown = [column for column in chosen if column not in there]
    if unknown or not chosen:
        raise KeyError(f"columns={columns!r}: {source} has no such columns; there are {shorten(there, 20)}.")
    for column in chosen:
        _keys.check_key(str(column), "columns")
        kinds = {type(value).__name__ for value in frame[column].dropna()}
        if frame[column].dtype.kind not in "biuf" and not kinds <= {"str"}:
            raise TypeError(
                f"{source}: column {column!r} holds {', '.join(sorted(kinds))}; expected strings, or numbers alone. Convert it, or "
                "leave it out with columns=."
            )
    return chosen


def join(sample: Sample, frame: pd.DataFrame, only: bool, source: str) -> tuple[Ints, int]:
    """Return the row of ``frame`` that labels each row of the sample (-1: none), and how many labels have no spot.

    Parameters
    ----------
    sample
        The sample.
    frame
        Table with ``sample``, ``spot`` or both; see :func:`spade.io._label_table.check_label_table`.
    only
        Whether the sample is the only one; a table without ``sample`` needs that.
    source
        What to call the table in messages.
    """
    everywhere = np.arange(sample.table.n_obs)
    if SAMPLE in frame:
        scopes = {sample.name: everywhere} | {section.name: section.rows for section in sample.sections}
        parts = [(name, rows, np.flatnonzero(frame[SAMPLE] == name)) for name, rows in scopes.items()]
    elif only:
        parts = [(sample.name, everywhere, np.arange(len(frame)))]
    else:
        raise ValueError(
            f"{source} labels spots but has no column 'sample', and there are several samples, such as {sample.name!r}. Add the "
            "column, or label one sample at a time."
        )
    positions, lost = np.full(sample.table.n_obs, -1), 0
    for name, rows, labels in parts:
        if not len(labels):
            continue
        found = np.full(len(rows), labels[0])
        if SPOT in frame:
            found = _match(sample, name, rows, pd.Index(frame[SPOT].iloc[labels]), source)
            lost += len(labels) - len(np.unique(found[found >= 0]))
            found = np.where(found < 0, -1, labels[found])
        if (positions[rows[found >= 0]] >= 0).any():
            raise ValueError(f"{source} labels spots of {name!r} twice: by the sample's name and by that of a section.")
        positions[rows[found >= 0]] = found[found >= 0]
    return positions, lost


def _match(sample: Sample, name: str, rows: Ints, spots: pd.Index, source: str) -> Ints:
    """Position in ``spots`` of each row, by instance id or by obs name, whichever finds more."""
    ids = np.full(sample.table.n_obs, "", dtype=object)
    for section in sample.sections:
        ids[section.rows] = section.ids.astype(str)
    names = sample.table.obs_names.astype(str).to_numpy(dtype=object)
    by_id, by_name = (spots.get_indexer(pd.Index(values[rows])) for values in (ids, names))
    found = by_name if (by_name >= 0).sum() > (by_id >= 0).sum() else by_id
    hits = found[found >= 0]
    if not len(hits):
        raise ValueError(
            f"{name}: none of the {len(spots)} spots in {source} ({shorten(spots, 3)}) is among its {len(rows)} spots (instance "
            f"ids {shorten(ids[rows], 3)}; obs names {shorten(names[rows], 3)}). Labels of another sample?"
        )
    if len(np.unique(hits)) < len(hits):
        raise ValueError(
            f"{name}: instance ids in {source} occur in several of its sections. Name the section in the column 'sample' "
            f"({shorten(section.name for section in sample.sections)}), or give obs names."
        )
    return found


def values_of(column: pd.Series, positions: Ints) -> Any:
    """Return the value of each row as an array; strings as a categorical with the same categories in every sample."""
    missing = positions < 0
    if column.dtype.kind in "biuf":
        if missing.any() and column.dtype.kind != "f":
            column = column.astype("boolean" if column.dtype.kind == "b" else "Int64")
        return column.reset_index(drop=True).reindex(positions).array
    strings = column.astype(object).map(lambda value: None if pd.isna(value) else str(value).strip() or None)
    values = strings.to_numpy(dtype=object)[np.where(missing, 0, positions)]
    return pd.Categorical(np.where(missing, None, values), categories=sorted(set(strings.dropna())))
