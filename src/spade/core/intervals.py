"""Bootstrap intervals over units that are independent of each other, such as sections or patients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def bootstrap_weights(n_units: int, n_boot: int, rng: int | np.random.Generator) -> NDArray[np.int64]:
    """Return how often each unit is drawn, ``(n_boot, n_units)``; every row is a draw of ``n_units`` with replacement."""
    return np.random.default_rng(rng).multinomial(n_units, np.full(n_units, 1 / n_units), size=n_boot)


def interval(
    values_boot: NDArray[np.floating], level: float = 0.95
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the bounds of the central ``level`` of values ``(n_boot, ...)``.

    Draws that are NaN, as where no unit drawn has the value, do not count; where all are NaN, so are the bounds.
    """
    values = np.asarray(values_boot, dtype=np.float64)
    known = ~np.isnan(values).all(0)
    bounds = np.full((2, *values.shape[1:]), np.nan)
    tail = (1 - level) / 2
    bounds[:, known] = np.nanquantile(values[:, known], [tail, 1 - tail], axis=0)
    return bounds[0], bounds[1]
