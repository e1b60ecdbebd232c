"""Labels of slides from the table that a data set publishes."""

from __future__ import annotations

from os import PathLike

import pandas as pd

from spade._checks import shorten
from spade._samples.obs import value_strings
from spade.core.checks import check_path
from spade.io._label_table import SAMPLE, check_label_table, read_label_table
from spade.tasks._records import Facts, LabelRule

#: Columns of labels, however the data set names them.
LABEL, TIME, EVENT, PATIENT = "label", "time", "event", "patient"
SPLITS = ("train", "test")


def read_labels(facts: Facts, table: pd.DataFrame | str | PathLike[str]) -> pd.DataFrame:
    """Apply the label rule of a task to the table of its data set."""
    if facts.rule is None:
        raise ValueError(
            f"{facts.name}: which columns hold the labels is unknown. {facts.note or ''} Make a table with "
            f"{shorten([SAMPLE, *_targets(facts)])} and, if patients are known, {PATIENT!r} yourself."
        )
    return _checked(facts, _own_columns(facts.rule, table))


def standard_labels(facts: Facts, table: pd.DataFrame | str | PathLike[str]) -> pd.DataFrame:
    """Return labels in columns of our names, from the table of a data set or from one that has these columns."""
    if facts.rule is None and not isinstance(table, pd.DataFrame):
        table = read_label_table(check_path("labels", table), argument="labels")
    if isinstance(table, pd.DataFrame) and {SAMPLE, *_targets(facts)} <= set(table.columns):
        return _checked(facts, check_label_table(table, "labels"), coded=False)
    return read_labels(facts, table)


def fold_columns(table: pd.DataFrame, prefix: str | None) -> list[str]:
    """Return the columns that say who is trained on and who is tested, in the order of their numbers."""
    start = prefix or "fold_"
    numbers = {name: str(name).removeprefix(start) for name in table.columns if str(name).startswith(start)}
    return sorted((name for name, number in numbers.items() if number.isdecimal()), key=lambda name: int(numbers[name]))


def _targets(facts: Facts) -> list[str]:
    return [TIME, EVENT] if facts.kind == "survival" else [LABEL]


def _own_columns(rule: LabelRule, table: pd.DataFrame | str | PathLike[str]) -> pd.DataFrame:
    """Return the columns of a rule under our names."""
    if not isinstance(table, pd.DataFrame):
        path = check_path("table", table)
        table = read_label_table(path, sample_col=rule.slide, argument="table").rename(columns={SAMPLE: rule.slide})
    named = {rule.slide: SAMPLE, rule.label: LABEL, rule.time: TIME, rule.event: EVENT, rule.patient: PATIENT}
    renamed = {column: name for column, name in named.items() if column is not None}
    if lacking := [column for column in renamed if column not in table]:
        raise KeyError(
            f"table has no {shorten(lacking)}; columns: {shorten(table.columns, 20)}. Expected {rule.table} of the "
            "data set."
        )
    wanted = [*renamed, *(fold_columns(table, rule.folds) if rule.folds else [])]
    return check_label_table(table[wanted].rename(columns=renamed), "table")


def _checked(facts: Facts, frame: pd.DataFrame, *, coded: bool = True) -> pd.DataFrame:
    """Return the columns that count, with labels as texts (None: missing) that are classes of the task."""
    targets = _targets(facts)
    folds = fold_columns(frame, facts.rule.folds if facts.rule else None)
    frame = frame[[SAMPLE, *([PATIENT] if PATIENT in frame else []), *targets, *folds]].copy()
    for column in {PATIENT, LABEL} & set(frame.columns):
        values = pd.Series(value_strings(frame[column]), index=frame.index, dtype=object)
        frame[column] = values.where(values != "", None)
    if LABEL in targets:
        frame[LABEL] = _classes(facts, frame[LABEL], coded=coded)
    for column in folds:
        frame[column] = value_strings(frame[column])
        if other := sorted(set(frame[column]) - {*SPLITS, ""}):
            raise ValueError(f"table: column {column!r} has {shorten(other)}; expected 'train' and 'test'.")
    return frame


def _classes(facts: Facts, label: pd.Series, *, coded: bool) -> pd.Series:
    """Return the class that every code means; raise for a code or class that the task does not have."""
    if facts.rule is None or not facts.rule.codes:
        return label
    names = dict(facts.rule.codes) if coded else {name: name for name in facts.rule.classes}
    if other := sorted(set(label.dropna()) - set(names)):
        raise ValueError(
            f"{facts.name}: the table has labels that the task does not have, {shorten(other)}; it has "
            f"{shorten(names, 20)}."
        )
    return label.map(names).astype(object).where(label.notna(), None)
