"""Bootstrap intervals and p values over independent units, such as sections or patients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats

#: Columns whose draws are in memory at a time.
COLUMNS = 1_024


def bootstrap_weights(n_units: int, n_boot: int, rng: int | np.random.Generator) -> NDArray[np.int64]:
    """Return how often each unit is drawn, ``(n_boot, n_units)``; a row is one draw of ``n_units`` with replacement."""
    return np.random.default_rng(rng).multinomial(n_units, np.full(n_units, 1 / n_units), size=n_boot)


def interval(values_boot: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the bounds of the central ``level`` of values ``(n_boot, ...)``.

    Draws that are NaN, because no drawn unit has the value, do not count. If all draws are NaN, the bounds are NaN.
    """
    values = np.asarray(values_boot, dtype=np.float64)
    known = ~np.isnan(values).all(0)
    bounds = np.full((2, *values.shape[1:]), np.nan)
    tail = (1 - level) / 2
    bounds[:, known] = np.nanquantile(values[:, known], [tail, 1 - tail], axis=0)
    return bounds[0], bounds[1]


def mean_interval(values: Floats, weights: NDArray[np.integer], level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the bootstrap bounds ``(m,)`` of the mean of every column ``(n_units, m)``; NaN values do not count.

    ``weights`` are the draws of :func:`bootstrap_weights`. The bounds of a column with fewer than two values are NaN.
    """
    known = ~np.isnan(values)
    low, high = np.full((2, values.shape[1]), np.nan)
    for start in range(0, values.shape[1], COLUMNS):
        columns = slice(start, start + COLUMNS)
        with np.errstate(invalid="ignore"):  # a draw may have none of the units with a value
            drawn = weights @ np.nan_to_num(values[:, columns]) / (weights @ known[:, columns])
        low[columns], high[columns] = interval(drawn, level)
    few = known.sum(0) < 2
    low[few] = high[few] = np.nan
    return low, high


def sign_flip_p(differences: Floats, rng: np.random.Generator, n_random: int = 10_000) -> float:
    """Return the two-sided p value of the mean of paired differences under random signs.

    It is exact for up to 12 differences, and NaN for none. The observed signs are one of the draws, so p is never 0.
    """
    n = len(differences)
    if not n:
        return np.nan
    if n <= 12:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.concatenate([np.ones((1, n), dtype=np.int64), rng.choice([-1, 1], (n_random, n))])
    means = np.abs(signs @ differences)
    return float(np.mean(means >= means[0] * (1 - 1e-9)))


def holm(p: Floats) -> Floats:
    """Return p values with Holm's correction for their number; NaN stays NaN and does not count."""
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    corrected = np.full(len(p), np.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return corrected
