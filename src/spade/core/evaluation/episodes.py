"""Draws of a few labelled rows to learn from (support) and rows to test on (query)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats
from spade.core.spots.blocks import block_numbers, too_near

Rows = NDArray[np.int64]
#: Draws of groups or blocks that are tried until one has enough rows of every class.
TRIES = 1_000


@dataclass(frozen=True)
class Episode:
    """One draw.

    Attributes
    ----------
    support
        One array of rows per class, in random order: the first ``k`` of each are the support of ``k`` shots, so that more shots
        only add to fewer.
    query
        Rows to test on; rows of the support are not among them for the ``k`` they are used with.
    """

    support: list[Rows]
    query: Rows

    def shots(self, k: int) -> tuple[Rows, Rows]:
        """Return the support of ``k`` shots, and the query without it."""
        chosen = np.concatenate([rows[:k] for rows in self.support])
        return chosen, self.query[~np.isin(self.query, chosen)]


def _by_class(rows: Rows, y: NDArray[np.integer], n_classes: int, rng: np.random.Generator) -> list[Rows]:
    return [rng.permutation(rows[y[rows] == k]) for k in range(n_classes)]


def _can_teach(support: Rows, query: Rows, y: NDArray[np.integer], n_classes: int, most: int) -> bool:
    """Whether there are ``most`` rows of every class to learn from, and two classes to test on."""
    enough = (np.bincount(y[support], minlength=n_classes) >= most).all()
    return bool(enough) and len(np.unique(y[query])) > 1


def anywhere(rows: Rows, y: NDArray[np.integer], n_classes: int, rng: np.random.Generator) -> Episode:
    """Support and query from the same rows, at random."""
    return Episode(_by_class(rows, y, n_classes, rng), rows)


def between_groups(
    groups: NDArray[np.integer],
    n_support: int,
    y: NDArray[np.integer],
    n_classes: int,
    most: int,
    rng: np.random.Generator,
) -> Iterator[Episode]:
    """Support from ``n_support`` groups, query from all others.

    Groups are dealt in turn, so that each is in the support about equally often. Those that lack ``most`` rows of a class are passed
    over; it ends when no deal has them.
    """
    names, failed = np.unique(groups), 0
    while failed < TRIES:
        order = rng.permutation(names)
        for start in range(0, len(names) - n_support + 1, n_support):
            chosen = np.isin(groups, order[start : start + n_support])
            support, query = np.flatnonzero(chosen), np.flatnonzero(~chosen)
            if _can_teach(support, query, y, n_classes, most):
                failed = 0
                yield Episode(_by_class(support, y, n_classes, rng), query)
            else:
                failed += 1


def between_blocks(
    rows: Rows, points: Floats, side: float, guard: float, y: NDArray[np.integer], n_classes: int, most: int,
    rng: np.random.Generator,
) -> Episode | None:  # fmt: skip
    """Support from half of the square blocks of one section, query from the rest; None if no draw has ``most`` of every class.

    The grid is laid anew for every draw. Support rows within ``guard`` of a query row are left out.
    """
    for _ in range(TRIES):
        blocks = block_numbers(points, side, points.min(0) - rng.random(2) * side)
        chosen = np.isin(blocks, rng.permutation(blocks.max() + 1)[: (blocks.max() + 1) // 2])
        near = too_near(points[chosen], points[~chosen], guard)
        support, query = rows[chosen][~near], rows[~chosen]
        if _can_teach(support, query, y, n_classes, most):
            return Episode(_by_class(support, y, n_classes, rng), query)
    return None
