"""Bootstrap intervals over units that are independent of each other, such as sections or patients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Columns whose draws are in memory at a time.
COLUMNS = 1_024


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


def mean_interval(
    values: NDArray[np.floating], weights: NDArray[np.integer], level: float = 0.95
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the bounds of the mean of every column ``(n_units, m)`` over its rows that have a value, under resampling of the rows.

    ``weights`` are those of :func:`bootstrap_weights`; a column with fewer than two values has NaN.
    """
    known = ~np.isnan(values)
    low, high = np.full((2, values.shape[1]), np.nan)
    for start in range(0, values.shape[1], COLUMNS):
        some = slice(start, start + COLUMNS)
        with np.errstate(invalid="ignore"):  # a draw may have none of the units with a value
            drawn = weights @ np.nan_to_num(values[:, some]) / (weights @ known[:, some])
        low[some], high[some] = interval(drawn, level)
    few = known.sum(0) < 2
    low[few] = high[few] = np.nan
    return low, high


def sign_flip_p(differences: NDArray[np.floating], rng: np.random.Generator, n_random: int = 10_000) -> float:
    """Two-sided p of the mean of paired differences under random signs; exact up to 12 of them, NaN of none.

    The observed signs count among the random ones, so p is never 0.
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


def holm(p: NDArray[np.floating]) -> NDArray[np.floating]:
    """Holm's correction of p values for their number; NaN stay NaN and do not count."""
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    corrected = np.full(len(p), np.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return corrected
