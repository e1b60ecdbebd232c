"""Correlation of measured and predicted expression, gene by gene."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats

#: A gene varies if its deviation is above this share of its largest value.
TINY = 1e-6


def _centred(values: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Values without their column means, and which columns vary at all."""
    values = np.asarray(values, dtype=np.float64)
    mean = values.mean(0)
    varies = values.std(0) > TINY * np.maximum(np.abs(values).max(0), np.finfo(np.float64).tiny)
    return values - mean, varies


def pearson_per_gene(truth: Floats, predicted: Floats) -> Floats:
    """Pearson correlation of every column of two ``(n, G)`` arrays, over rows.

    NaN for a gene without variance in the truth, where there is nothing to predict (or fewer than two rows); 0 for one that is
    predicted alike everywhere, as the mean expression is, which tells nothing.
    """
    if truth.shape != predicted.shape or truth.ndim != 2:
        raise ValueError(f"truth {truth.shape} and predicted {predicted.shape}: expected two arrays (n, G) alike.")
    if len(truth) < 2:
        return np.full(truth.shape[1], np.nan)
    (x, varies), (y, told) = _centred(truth), _centred(predicted)
    both = varies & told
    found = np.where(varies, 0.0, np.nan)
    scale = np.sqrt(np.square(x[:, both]).sum(0) * np.square(y[:, both]).sum(0))
    found[both] = np.clip((x[:, both] * y[:, both]).sum(0) / scale, -1, 1)
    return found
