"""Few-shot draws: a few labelled rows to learn from (support), and rows to test on (query)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats, Rows
from spade.core.spots.blocks import block_numbers, too_near

#: Failed draws of groups or blocks after which the search for enough rows of every class ends.
MAX_TRIES = 1_000


@dataclass(frozen=True)
class Episode:
    """One draw.

    Attributes
    ----------
    support
        One array of rows per class, in random order. The first ``k`` rows of each class are the support of ``k`` shots,
        so that more shots add rows and replace none.
    query
        Rows to test on. :meth:`shots` takes out the rows of the support.
    """

    support: list[Rows]
    query: Rows

    def shots(self, k: int) -> tuple[Rows, Rows]:
        """Return the support of ``k`` shots, and the query without it."""
        chosen = np.concatenate([rows[:k] for rows in self.support])
        return chosen, self.query[~np.isin(self.query, chosen)]


def _by_class(rows: Rows, y: NDArray[np.integer], n_classes: int, rng: np.random.Generator) -> list[Rows]:
    return [rng.permutation(rows[y[rows] == k]) for k in range(n_classes)]


def _is_usable(support: Rows, query: Rows, y: NDArray[np.integer], n_classes: int, max_shots: int) -> bool:
    """Return whether the support has ``max_shots`` rows of every class, and the query has two classes."""
    enough = (np.bincount(y[support], minlength=n_classes) >= max_shots).all()
    return bool(enough) and len(np.unique(y[query])) > 1


def anywhere(rows: Rows, y: NDArray[np.integer], n_classes: int, rng: np.random.Generator) -> Episode:
    """Draw support and query from the same rows, at random."""
    return Episode(_by_class(rows, y, n_classes, rng), rows)


def between_groups(
    groups: NDArray[np.integer],
    n_support: int,
    y: NDArray[np.integer],
    n_classes: int,
    max_shots: int,
    rng: np.random.Generator,
) -> Iterator[Episode]:
    """Draw the support from ``n_support`` groups and the query from all others.

    Groups take turns, so that each is in the support about equally often. Draws with fewer than ``max_shots`` rows of a
    class in the support are skipped; the iterator ends after ``MAX_TRIES`` of them in a row.
    """
    names, failed = np.unique(groups), 0
    while failed < MAX_TRIES:
        order = rng.permutation(names)
        for start in range(0, len(names) - n_support + 1, n_support):
            chosen = np.isin(groups, order[start : start + n_support])
            support, query = np.flatnonzero(chosen), np.flatnonzero(~chosen)
            if _is_usable(support, query, y, n_classes, max_shots):
                failed = 0
                yield Episode(_by_class(support, y, n_classes, rng), query)
            else:
                failed += 1


def between_blocks(
    rows: Rows,
    points: Floats,
    side: float,
    guard: float,
    *,
    y: NDArray[np.integer],
    n_classes: int,
    max_shots: int,
    rng: np.random.Generator,
) -> Episode | None:
    """Draw the support from half of the square blocks of one section, and the query from the other half.

    Every draw places the grid of blocks at random. Support rows closer than ``guard`` to a query row are left out.

    Parameters
    ----------
    rows, points
        Rows of the section ``(m,)``, and their positions ``(m, 2)``.
    side, guard
        Side of the blocks and width of the guard band, in units of ``points``.
    y
        Class of every row ``(n,)``.
    n_classes
        Number of classes.
    max_shots
        Rows of every class that the support must have.
    rng
        Generator of the draws.

    Returns
    -------
    A draw, or None if ``MAX_TRIES`` draws lack rows of a class.
    """
    for _ in range(MAX_TRIES):
        blocks = block_numbers(points, side, points.min(0) - rng.random(2) * side)
        chosen = np.isin(blocks, rng.permutation(blocks.max() + 1)[: (blocks.max() + 1) // 2])
        near = too_near(points[chosen], points[~chosen], guard)
        support, query = rows[chosen][~near], rows[~chosen]
        if _is_usable(support, query, y, n_classes, max_shots):
            return Episode(_by_class(support, y, n_classes, rng), query)
    return None
