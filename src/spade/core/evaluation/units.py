"""Mean of units, such as sections or patients, and its difference to a baseline, for all summaries."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats
from spade.core.evaluation.intervals import mean_interval, sign_flip_p


def unit_mean(values: Floats, weights: NDArray[np.integer], level: float) -> dict[str, float]:
    """Return the mean of units ``(U,)`` that have a value, its bootstrap interval and their number.

    ``weights`` are the draws of :func:`~spade.core.evaluation.intervals.bootstrap_weights`.
    """
    known = ~np.isnan(values)
    low, high = (float(bound[0]) for bound in mean_interval(values[:, None], weights, level))
    mean = float(values[known].mean()) if known.any() else np.nan
    return {"mean": mean, "low": low, "high": high, "n_units": int(known.sum())}


def unit_difference(
    values: Floats, baseline: Floats, weights: NDArray[np.integer], level: float, rng: np.random.Generator | None
) -> dict[str, float]:
    """Return the mean difference of the same units to a baseline, its bootstrap interval and a sign-flip p value.

    ``rng`` draws the signs. Without it p is NaN, as for the baseline itself.
    """
    differences = values - baseline
    mean = unit_mean(differences, weights, level)
    p = np.nan if rng is None else sign_flip_p(differences[~np.isnan(differences)], rng)
    return {
        "difference": mean["mean"],
        "difference_low": mean["low"],
        "difference_high": mean["high"],
        "p": p,
    }
