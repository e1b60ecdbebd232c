"""Square blocks of tissue, and the guard band between those that must not see each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from spade.core.routing import Floats


def block_numbers(points: Floats, side: float, corner: Floats | None = None) -> NDArray[np.int64]:
    """Number, from 0, of the square block of every point; blocks without points get none.

    ``corner`` is where a block begins; None: the least x and y.
    """
    cells = np.floor((points - (points.min(0) if corner is None else corner)) / side).astype(np.int64)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)


def too_near(points: Floats, others: Floats, distance: float) -> NDArray[np.bool_]:
    """Whether a point is closer than ``distance``, along x as well as along y, to any of the others.

    So squares of that side around them would overlap.
    """
    if not len(others):
        return np.zeros(len(points), dtype=bool)
    return KDTree(others).query(points, p=np.inf)[0] < distance
