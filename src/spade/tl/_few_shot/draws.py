"""Draws of support and query: within each section, or between groups."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from spade._checks import shorten
from spade.core.checks import brief, check_count
from spade.core.errors import warn
from spade.core.evaluation.episodes import Episode, anywhere, between_blocks, between_groups
from spade.core.rng import numpy_stream
from spade.tl._few_shot.rows import LabelledRows

logger = logging.getLogger("spade")
Draws = list[tuple[int, Episode]]


class TooFewLabelsError(ValueError):
    """A class has too few labelled spots for a number of shots; ``reason`` says so, the message also what to do."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}. {advice}")
        self.reason = reason


def draw_most(numbers: Sequence[int], draw: Callable[[int], Draws]) -> tuple[Draws, Sequence[int]]:
    """Draw for the most shots that the labels allow; return the draws and these numbers, and warn of those left out."""
    for n in range(len(numbers), 0, -1):
        try:
            drawn = draw(numbers[n - 1])
        except TooFewLabelsError as error:
            if n == 1:
                raise
            reason = error.reason
        else:
            break
    if n < len(numbers):
        warn(f"{reason}. Left out of shots=: {shorten(numbers[n:])}; drawn: {shorten(numbers[:n])}.")
    return drawn, numbers[:n]


def draw_within_sections(
    rows: LabelledRows, n_shots: int, *, n_repeats: int, seed: int, block_um: float | None, guard_um: float
) -> Draws:
    """Draw within each section by itself, anywhere or (``block_um``) from half of its blocks; return them by repeat."""
    drawn = []
    labelled = rows.labelled
    for section in np.unique(rows.section):
        section_rows = labelled[rows.section[labelled] == section]
        if not len(section_rows):
            logger.info("%s: no spot has a label, section skipped", section)
            continue
        counts = np.bincount(rows.y[section_rows], minlength=len(rows.classes))
        _check_counts(section, rows.classes, counts, n_shots)
        for repeat in range(n_repeats):
            generator = numpy_stream(seed, f"few-shot {section}", repeat)
            episode = _draw(rows, section_rows, n_shots, generator, block_um=block_um, guard_um=guard_um)
            if episode is None:
                raise TooFewLabelsError(
                    f"{section}: no draw of blocks of {block_um:g} µm with a guard band of {guard_um:g} µm leaves "
                    f"{n_shots} labelled spots of every class ({_listed(rows.classes, counts)}) in one half",
                    "Lower shots=, or change block_um= or guard_um=.",
                )
            drawn.append((repeat, episode))
    return sorted(drawn, key=lambda pair: pair[0])


def _check_counts(section: str, classes: list[str], counts: NDArray[np.integer], n_shots: int) -> None:
    """Raise if a class of a section has too few labelled spots for the shots and a query."""
    few = [f"{name!r} has {count}" for name, count in zip(classes, counts, strict=True) if count <= n_shots]
    if few:
        raise TooFewLabelsError(
            f"{section}: {', '.join(few)} labelled spots, but {n_shots} shots and a query need at least {n_shots + 1} "
            "of every class",
            "Lower shots=, remove the labels of the class, or draw from several sections at once with groupby=.",
        )


def _draw(
    rows: LabelledRows,
    section_rows: NDArray[np.int64],
    n_shots: int,
    generator: np.random.Generator,
    *,
    block_um: float | None,
    guard_um: float,
) -> Episode | None:
    """Draw once within a section; None if no draw of blocks has enough spots of every class."""
    n_classes = len(rows.classes)
    if block_um is None:
        return anywhere(section_rows, rows.y, n_classes, generator)
    points = np.asarray(rows.points)[section_rows]
    return between_blocks(
        section_rows,
        points,
        side=block_um,
        guard=guard_um,
        y=rows.y,
        n_classes=n_classes,
        max_shots=n_shots,
        rng=generator,
    )


def draw_between_groups(
    rows: LabelledRows, n_shots: int, *, n_repeats: int, seed: int, groupby: str, n_support_groups: int | None
) -> Draws:
    """Draw the support from some groups and the query from all others."""
    labelled = rows.labelled
    names, number = np.unique(rows.group, return_inverse=True)
    n_groups = len(np.unique(number[labelled]))
    if n_groups < 2:
        raise ValueError(
            f"groupby={groupby!r}: all labelled spots belong to {str(names[number[labelled[0]]])!r}, so support and "
            "query cannot come from different groups. Add samples of other groups, or split the section itself with "
            "block_um=."
        )
    n_support = n_groups // 2 if n_support_groups is None else check_count("n_support_groups", n_support_groups)
    if n_support >= n_groups:
        raise ValueError(
            f"n_support_groups={brief(n_support_groups)}: expected a whole number from 1 to {n_groups - 1}, as "
            f"{n_groups} groups have labels."
        )
    y = rows.y[labelled]
    possible = between_groups(
        number[labelled],
        n_support,
        y,
        n_classes=len(rows.classes),
        max_shots=n_shots,
        rng=numpy_stream(seed, "few-shot"),
    )
    episodes = list(islice(possible, n_repeats))
    if len(episodes) < n_repeats:
        counts = np.bincount(y, minlength=len(rows.classes))
        raise TooFewLabelsError(
            f"groupby={groupby!r}: no draw of {n_support} of {n_groups} groups has {n_shots} labelled spots of every "
            f"class ({_listed(rows.classes, counts)} in all groups)",
            "Lower shots=, or raise n_support_groups=.",
        )
    return [
        (repeat, Episode([labelled[chosen] for chosen in episode.support], labelled[episode.query]))
        for repeat, episode in enumerate(episodes)
    ]


def _listed(classes: list[str], counts: NDArray[np.integer]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in zip(classes, counts, strict=True))
