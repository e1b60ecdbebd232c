"""How evenly groups are spread among nearest neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHUNK = 8_192


def neighbour_shares(
    neighbours: NDArray[np.integer], group: NDArray[np.integer], n_groups: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Look at whose neighbours are whose.

    Parameters
    ----------
    neighbours
        Rows ``(n, k)`` of the k nearest others of every row.
    group
        Group ``(n,)`` of every row.
    n_groups
        Number of groups.

    Returns
    -------
    Per group, over its rows: the mean share of neighbours that are of other groups, and the mean Simpson index Σ_h p_h² of the
    groups' shares p_h among the neighbours.
    """
    other, simpson = np.zeros(n_groups), np.zeros(n_groups)
    for start in range(0, len(group), CHUNK):
        rows = slice(start, start + CHUNK)
        own, theirs = group[rows], group[neighbours[rows]]
        cells = np.arange(len(own))[:, None] * n_groups + theirs
        shares = np.bincount(cells.ravel(), minlength=len(own) * n_groups).reshape(len(own), n_groups) / theirs.shape[1]
        other += np.bincount(own, 1 - shares[np.arange(len(own)), own], n_groups)
        simpson += np.bincount(own, (shares**2).sum(1), n_groups)
    sizes = np.bincount(group, minlength=n_groups)
    return other / sizes, simpson / sizes


def expected_shares(sizes: NDArray[np.integer], n_neighbours: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What :func:`neighbour_shares` is on average if each row's neighbours are drawn from all other rows alike."""
    others = sizes.sum() - 1
    share = (sizes - np.eye(len(sizes))) / others  # of group h among the others of a row of group g
    spread = 0.0 if others == 1 else (others - n_neighbours) / (others - 1) / n_neighbours
    simpson = (share**2 + share * (1 - share) * spread).sum(1)
    return 1 - np.diag(share), simpson
