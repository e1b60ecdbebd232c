"""Mixing of groups among nearest neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Rows at a time.
CHUNK = 8_192


def neighbour_shares(
    neighbours: NDArray[np.integer], group: NDArray[np.integer], n_groups: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how much the neighbours of each group belong to other groups.

    Parameters
    ----------
    neighbours
        Rows ``(n, k)`` of the k nearest neighbours of every row.
    group
        Group ``(n,)`` of every row.
    n_groups
        Number of groups.

    Returns
    -------
    Two arrays ``(n_groups,)`` of means over the rows of each group: the share of neighbours from other groups, and the
    Simpson index Σ_h p_h² of the shares p_h of all groups among the neighbours.
    """
    other, simpson = np.zeros(n_groups), np.zeros(n_groups)
    for start in range(0, len(group), CHUNK):
        rows = slice(start, start + CHUNK)
        of_row, of_neighbour = group[rows], group[neighbours[rows]]
        n, k = of_neighbour.shape
        cells = np.arange(n)[:, None] * n_groups + of_neighbour
        shares = np.bincount(cells.ravel(), minlength=n * n_groups).reshape(n, n_groups) / k
        other += np.bincount(of_row, 1 - shares[np.arange(n), of_row], n_groups)
        simpson += np.bincount(of_row, (shares**2).sum(1), n_groups)
    sizes = np.bincount(group, minlength=n_groups)
    return other / sizes, simpson / sizes


def expected_shares(sizes: NDArray[np.integer], n_neighbours: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the expected values of :func:`neighbour_shares` if neighbours are drawn at random from all other rows."""
    others = sizes.sum() - 1
    share = (sizes - np.eye(len(sizes))) / others  # of group h among the others of a row of group g
    spread = 0.0 if others == 1 else (others - n_neighbours) / (others - 1) / n_neighbours
    simpson = (share**2 + share * (1 - share) * spread).sum(1)
    return 1 - np.diag(share), simpson
