"""Types of arrays, and what is computed from them everywhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Rows = NDArray[np.int64]
#: Score of rows that only fill up a batch; finite, as 0 times it must be 0.
FAR = -1e30
#: A column is constant if its deviation is at most this share of its mean (of 1 where the mean is smaller).
CONSTANT = 1e-7


def scale_of(mean: Floats, variance: Floats) -> NDArray[np.float64]:
    """Return the deviation of every column; that of a constant column is 1, so that it can be divided by."""
    deviation = np.sqrt(np.maximum(variance, 0), dtype=np.float64)
    deviation[deviation <= CONSTANT * np.maximum(1, np.abs(mean))] = 1
    return deviation
