"""Distances between spots, square blocks of tissue, and the guard band that keeps training and test spots apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from spade.core.arrays import Floats
from spade.core.spots.lattice import spot_pitch

#: Least width of the guard band, in distances between neighbouring spots.
GUARD_PITCHES = 2.0
#: Squares that overlap by less than this share of their side only touch.
TOUCHING = 1e-6


def spacing(points: Floats) -> float:
    """Return the median distance of a point to its nearest neighbour, 0 for a single point."""
    return float(np.median(KDTree(points).query(points, k=2)[0][:, 1])) if len(points) > 1 else 0.0


def block_numbers(points: Floats, side: float, corner: Floats) -> NDArray[np.int64]:
    """Return the number of the square block of every point, from 0 without gaps; ``corner`` is that of one block."""
    cells = np.floor((points - corner) / side).astype(np.int64)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)


def guard_band(points: Floats, side: float) -> float:
    """Return the default width of the guard band of one section: the larger of ``side`` and two pitches of its spots.

    Two squares of ``side`` (that of a patch) then share no tissue, and no two spots are neighbours: those of a lattice
    lie one pitch apart, along the diagonal of a square lattice √2, and up to 1.7 where spots are off their places by a
    fifth. With fewer than two spots, or where most lie in one place, it is ``side``.
    """
    pitch = spot_pitch(points)
    return max(side, GUARD_PITCHES * pitch) if pitch > 0 else side


def too_near(points: Floats, others: Floats, distance: float) -> NDArray[np.bool_]:
    """Return whether each point is closer than ``distance`` to any of ``others``, along x and along y.

    Squares of that side around the two points would overlap. Those that only touch, up to rounding, do not.
    """
    if not len(others):
        return np.zeros(len(points), dtype=bool)
    return KDTree(others).query(points, p=np.inf)[0] < distance * (1 - TOUCHING)
