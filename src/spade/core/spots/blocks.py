"""Distances between spots, square blocks of tissue, and the guard band that keeps training and test spots apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from spade.core.arrays import Floats


def spacing(points: Floats) -> float:
    """Return the median distance of a point to its nearest neighbour, 0 for a single point."""
    return float(np.median(KDTree(points).query(points, k=2)[0][:, 1])) if len(points) > 1 else 0.0


def block_numbers(points: Floats, side: float, corner: Floats) -> NDArray[np.int64]:
    """Return the number of the square block of every point, from 0 without gaps; ``corner`` is that of one block."""
    cells = np.floor((points - corner) / side).astype(np.int64)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)


def too_near(points: Floats, others: Floats, distance: float) -> NDArray[np.bool_]:
    """Return whether each point is closer than ``distance`` to any of ``others``, along x and along y.

    Squares of that side around the two points would overlap.
    """
    if not len(others):
        return np.zeros(len(points), dtype=bool)
    return KDTree(others).query(points, p=np.inf)[0] < distance
