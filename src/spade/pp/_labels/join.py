"""Labels in tables, joined to spots by their ids or, by sample, to all spots of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from spade import _keys
from spade._checks import clean_label, shorten
from spade._samples.sample import Sample
from spade.core.arrays import Rows
from spade.io._label_table import SAMPLE, SPOT


def chosen_columns(frame: pd.DataFrame, columns: str | Sequence[str] | None, source: str) -> list[str]:
    """Return the columns to write; raise if one is missing or a table cannot hold it."""
    present = [column for column in frame.columns if column not in (SAMPLE, SPOT)]
    chosen = present if columns is None else [columns] if isinstance(columns, str) else list(columns)
    if not chosen or any(column not in present for column in chosen):
        raise KeyError(f"columns={columns!r}: {source} has no such columns; columns: {shorten(present, 20)}.")
    for column in chosen:
        kinds = {type(value).__name__ for value in frame[column].dropna()}
        if frame[column].dtype.kind not in "biuf" and not kinds <= {"str"}:
            raise TypeError(
                f"{source}: column {column!r} holds {', '.join(sorted(kinds))}; expected only strings or only numbers. "
                "Convert it, or leave it out with columns=."
            )
    return chosen


def storage_keys(chosen: list[str], source: str) -> dict[str, str]:
    """Return the ``obs`` key of each column, which is its name with ``_`` for what a zarr store does not accept."""
    keys = {column: _keys.check_key(_keys.storable(str(column)) or str(column), "columns") for column in chosen}
    if twice := [column for column in chosen if list(keys.values()).count(keys[column]) > 1]:
        raise ValueError(
            f"{source}: columns {shorten(twice)} would be stored as {keys[twice[0]]!r}; choose one with columns=, or "
            "rename them."
        )
    return keys


def join(sample: Sample, frame: pd.DataFrame, source: str, *, only: bool) -> tuple[Rows, int]:
    """Return the row of ``frame`` that labels each row of the sample (-1: none), and how many labels are unused.

    Parameters
    ----------
    sample
        The sample.
    frame
        Table with ``sample``, ``spot`` or both; see :func:`spade.io._label_table.check_label_table`.
    source
        What to call the table in messages.
    only
        Whether the sample is the only one; a table without ``sample`` needs that.
    """
    all_rows = np.arange(sample.table.n_obs)
    if SAMPLE in frame:
        scopes = {sample.name: all_rows} | {section.name: section.rows for section in sample.sections}
        parts = [(name, rows, np.flatnonzero(frame[SAMPLE] == name)) for name, rows in scopes.items()]
    elif only:
        parts = [(sample.name, all_rows, np.arange(len(frame)))]
    else:
        raise ValueError(
            f"{source} labels spots but has no column 'sample', and there are several samples, such as "
            f"{sample.name!r}. Add the column, or label one sample at a time."
        )
    positions, n_unused = np.full(sample.table.n_obs, -1), 0
    for name, rows, labels in parts:
        if not len(labels):
            continue
        label_of_row = np.full(len(rows), labels[0])
        if SPOT in frame:
            matched = _match(sample, name, rows, pd.Index(frame[SPOT].iloc[labels]), source)
            n_unused += len(labels) - len(np.unique(matched[matched >= 0]))
            label_of_row = np.where(matched < 0, -1, labels[matched])
        labelled = label_of_row >= 0
        if (positions[rows[labelled]] >= 0).any():
            raise ValueError(f"{source} labels spots of {name!r} twice: by the name of the sample and of a section.")
        positions[rows[labelled]] = label_of_row[labelled]
    return positions, n_unused


def _match(sample: Sample, name: str, rows: Rows, spots: pd.Index, source: str) -> Rows:
    """Return the position in ``spots`` of each row, by instance id or by obs name, whichever finds more."""
    ids = np.full(sample.table.n_obs, "", dtype=object)
    for section in sample.sections:
        ids[section.rows] = section.ids.astype(str)
    names = sample.table.obs_names.astype(str).to_numpy(dtype=object)
    by_id, by_name = (spots.get_indexer(pd.Index(values[rows])) for values in (ids, names))
    positions = by_name if (by_name >= 0).sum() > (by_id >= 0).sum() else by_id
    matched = positions[positions >= 0]
    if not len(matched):
        raise ValueError(
            f"{name}: none of the {len(spots)} spots in {source} ({shorten(spots, 3)}) is among its {len(rows)} spots "
            f"(instance ids {shorten(ids[rows], 3)}; obs names {shorten(names[rows], 3)}). Are these labels of another "
            "sample?"
        )
    if len(np.unique(matched)) < len(matched):
        raise ValueError(
            f"{name}: instance ids in {source} occur in several of its sections. Name the section in the column "
            f"'sample' ({shorten(section.name for section in sample.sections)}), or use obs names."
        )
    return positions


def values_of(column: pd.Series, positions: Rows) -> Any:
    """Return the value of each row as an array; strings become a categorical that is the same in every sample."""
    missing = positions < 0
    if column.dtype.kind in "biuf":
        if missing.any() and column.dtype.kind != "f":
            column = column.astype("boolean" if column.dtype.kind == "b" else "Int64")
        return column.reset_index(drop=True).reindex(positions).array
    strings = column.astype(object).map(lambda value: None if pd.isna(value) else clean_label(str(value)) or None)
    values = strings.to_numpy(dtype=object)[np.where(missing, 0, positions)]
    return pd.Categorical(np.where(missing, None, values), categories=sorted(set(strings.dropna())))
