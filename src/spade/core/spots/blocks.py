"""How far apart spots are, square blocks of tissue, and the guard band between those that must not see each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from spade.core.arrays import Floats


def spacing(points: Floats) -> float:
    """Median distance of a point to the nearest other, 0 of a single one."""
    return float(np.median(KDTree(points).query(points, k=2)[0][:, 1])) if len(points) > 1 else 0.0


def block_numbers(points: Floats, side: float, corner: Floats) -> NDArray[np.int64]:
    """Number, from 0, of the square block of every point; blocks begin at the corner, and those without points get none."""
    cells = np.floor((points - corner) / side).astype(np.int64)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)


def too_near(points: Floats, others: Floats, distance: float) -> NDArray[np.bool_]:
    """Whether a point is closer than ``distance``, along x as well as along y, to any of the others.

    So squares of that side around them would overlap.
    """
    if not len(others):
        return np.zeros(len(points), dtype=bool)
    return KDTree(others).query(points, p=np.inf)[0] < distance
