"""What is predicted for slides: classes, grades with an order, or numbers, read from their labels."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spade._checks import check_classes, plural, shorten
from spade.core.arrays import Floats, Rows
from spade.tl._slides.columns import ColumnKind

logger = logging.getLogger("spade")
CLASSES, ORDINAL, CONTINUOUS = "classes", "ordinal", "continuous"
#: Classes, if the labels are no numbers.
AUTO = "auto"
TARGETS = (AUTO, CLASSES, ORDINAL, CONTINUOUS)
#: Numbers that are classes without being called so.
YES_OR_NO = {"0", "1"}
#: Labels of columns of bool.
TRUTH = ["True", "False"]


class Target(NamedTuple):
    """What is predicted.

    Attributes
    ----------
    kind
        ``"classes"``, ``"ordinal"`` or ``"continuous"``.
    y
        Number of the class or grade of every slide, 0 for a continuous target; -1: none.
    classes
        Names of the classes, or of the grades in order; empty for a continuous target.
    value
        The number to predict, per slide, NaN where there is none: that of a grade, by which distances between grades
        are measured (of ordered categories their position), or of a class.
    """

    kind: str
    y: Rows
    classes: list[str]
    value: Floats


def read_target(kind: str, label: NDArray[np.object_], column: ColumnKind, names: list[str], label_key: str) -> Target:
    """Read what is predicted from the labels of slides, ``""`` where there is none."""
    said, labelled = f"label_key={label_key!r}", label != ""
    if kind == CONTINUOUS:
        value = _numbers(label, names, said, "a number")
        distinct = np.unique(value[labelled])
        if len(distinct) < 2:
            only = (
                f"the only value is {distinct[0]:g}, of {plural(int(labelled.sum()), 'slide')}" if len(distinct) else ""
            )
            raise ValueError(f"{said}: {only or 'no slide has a value'}, so there is nothing to predict.")
        return Target(kind, np.where(labelled, 0, -1), [], value)
    if kind == ORDINAL:
        grades = _grades(label, column, names, said)
        present = set(label[labelled].tolist())
        classes = [name for name in grades if name in present]
        if len(classes) < 2:
            there = f"all grades are {classes[0]!r}" if classes else "no slide has a grade"
            raise ValueError(f"{said}: {there}; a target with an order needs at least two grades.")
    else:
        _refuse_mixture(label, column, names, said)
        _refuse_numbers(kind, label, column, said)
        classes = check_classes(label, label_key)
        grades = {name: number for number, name in enumerate(classes)}
    number = {name: place for place, name in enumerate(classes)}
    y = np.array([number.get(name, -1) for name in label], dtype=np.int64)
    return Target(kind, y, classes, np.array([grades.get(name, np.nan) for name in label], dtype=np.float64))


def _refuse_mixture(label: NDArray[np.object_], column: ColumnKind, names: list[str], said: str) -> None:
    """Raise if some slides have numbers and others text or True and False, whose classes would not be the same ones."""
    numbers = np.array([_is_number(name) for name in label.tolist()])
    odd = (label != "") & ~numbers if column.numbers else np.isin(label, TRUTH)
    if not odd.any() or not numbers.any():
        return
    one, other = (int(np.flatnonzero(mask)[0]) for mask in (odd, numbers))
    raise ValueError(
        f"{said}: slide {names[one]!r} has {label[one]!r}, but {names[other]!r} has the number {label[other]}. Write "
        "the labels of all slides alike: all as text, all as numbers, or all as True and False."
    )


def _is_number(label: str) -> bool:
    """Whether a label is the text of a number."""
    try:
        float(label)
    except ValueError:
        return False
    return True


def _refuse_numbers(kind: str, label: NDArray[np.object_], column: ColumnKind, said: str) -> None:
    """Raise if labels are numbers that may not be classes, or cannot be."""
    if kind == AUTO and column.order:
        logger.info('%s has ordered categories, which are taken for classes; target="ordinal" uses their order', said)
    if not column.numbers:
        return
    values = sorted(set(label.tolist()) - {""}, key=float)
    if fractions := [value for value in values if not float(value).is_integer()]:
        raise ValueError(
            f"{said} holds numbers such as {shorten(map(float, fractions), 2)}, which are no classes. Pass "
            'target="continuous" to predict them (slide_task), or cut them into ranges, as with pandas.cut.'
        )
    if kind == AUTO and not set(values) <= YES_OR_NO:
        raise ValueError(
            f"{said} holds numbers ({shorten(map(int, map(float, values)))}), which may be classes, grades or amounts. "
            'Say which with target="classes", "ordinal" or "continuous".'
        )


def _numbers(label: NDArray[np.object_], names: list[str], said: str, what: str) -> Floats:
    """Return labels as finite numbers, NaN where there is none."""
    value = np.full(len(label), np.nan)
    for i in np.flatnonzero(label != ""):
        try:
            value[i] = float(label[i])
        except ValueError as error:
            raise ValueError(f"{said}: slide {names[i]!r} has {label[i]!r}; expected {what}.") from error
    if len(odd := np.flatnonzero((label != "") & ~np.isfinite(value))):
        raise ValueError(
            f"{said}: {plural(len(odd), 'slide')} {'has' if len(odd) == 1 else 'have'} no finite number, such as "
            f"{names[odd[0]]!r} with {label[odd[0]]}. Correct it, or leave it empty to exclude the slide."
        )
    return value


def _grades(label: NDArray[np.object_], column: ColumnKind, names: list[str], said: str) -> dict[str, float]:
    """Return the number of every grade, in order: that of whole numbers, or the position among ordered categories."""
    present = sorted(set(label.tolist()) - {""})
    if column.order and set(present) <= set(column.order):
        return {name: float(place) for place, name in enumerate(column.order)}
    try:
        value = _numbers(label, names, said, "a whole number")
    except ValueError as error:
        if column.numbers:
            raise
        raise ValueError(
            f"{said}: {shorten(present)} have no order. Make it an ordered categorical, with the same categories in "
            "all samples (pandas.Categorical(values, categories=[lowest, …, highest], ordered=True)), or write the "
            "grades as whole numbers."
        ) from error
    if fractions := [number for number in value[label != ""].tolist() if not number.is_integer()]:
        raise ValueError(
            f"{said} holds numbers such as {shorten(fractions, 2)}, but grades are whole numbers. Pass "
            'target="continuous", or cut them into ordered ranges, as with pandas.cut.'
        )
    number = dict(zip(label[label != ""].tolist(), value[label != ""].tolist(), strict=True))
    grades = sorted(number, key=lambda name: number[name])
    if alike := [pair for pair in pairwise(grades) if number[pair[0]] == number[pair[1]]]:
        raise ValueError(f"{said}: {shorten(alike[0])} are the same number. Write it in one way.")
    return {name: number[name] for name in grades}
