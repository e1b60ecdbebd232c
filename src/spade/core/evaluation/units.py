"""Means of units, such as sections or patients, and how they differ from a baseline: what every summary says of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats
from spade.core.evaluation.intervals import mean_interval, sign_flip_p


def unit_mean(values: Floats, weights: NDArray[np.integer], level: float) -> dict[str, float]:
    """Mean of units ``(U,)`` that have a value, its interval under resampling by ``weights``, and their number."""
    known = ~np.isnan(values)
    low, high = (float(bound[0]) for bound in mean_interval(values[:, None], weights, level))
    mean = float(values[known].mean()) if known.any() else np.nan
    return {"mean": mean, "low": low, "high": high, "n_units": int(known.sum())}


def unit_difference(
    values: Floats, baseline: Floats, weights: NDArray[np.integer], level: float, rng: np.random.Generator | None
) -> dict[str, float]:
    """Mean difference of the same units to a baseline, its interval, and a sign-flip p; NaN without ``rng``, as of the baseline itself."""
    differences = values - baseline
    found = unit_mean(differences, weights, level)
    p = np.nan if rng is None else sign_flip_p(differences[~np.isnan(differences)], rng)
    return {
        "difference": found["mean"],
        "difference_low": found["low"],
        "difference_high": found["high"],
        "p": p,
    }
