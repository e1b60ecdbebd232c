"""Correlation of measured and predicted expression per gene."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats

#: A gene varies if its deviation exceeds this share of its largest absolute value.
MIN_DEVIATION = 1e-6


def _centred(values: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return values minus their column means, and which columns vary."""
    values = np.asarray(values, dtype=np.float64)
    mean = values.mean(0)
    varies = values.std(0) > MIN_DEVIATION * np.maximum(np.abs(values).max(0), np.finfo(np.float64).tiny)
    return values - mean, varies


def pearson_per_gene(truth: Floats, predicted: Floats) -> Floats:
    """Return the Pearson correlation of every column of two arrays ``(n, G)`` over rows, ``(G,)``.

    NaN for a gene that does not vary in the truth, which leaves nothing to predict, or for fewer than two rows. 0 for a
    gene whose prediction is constant, such as its mean expression.
    """
    if truth.shape != predicted.shape or truth.ndim != 2:
        raise ValueError(
            f"truth has shape {truth.shape} and predicted has shape {predicted.shape}; expected (n, G) for both."
        )
    if len(truth) < 2:
        return np.full(truth.shape[1], np.nan)
    (x, x_varies), (y, y_varies) = _centred(truth), _centred(predicted)
    both = x_varies & y_varies
    correlation = np.where(x_varies, 0.0, np.nan)
    scale = np.sqrt(np.square(x[:, both]).sum(0) * np.square(y[:, both]).sum(0))
    correlation[both] = np.clip((x[:, both] * y[:, both]).sum(0) / scale, -1, 1)
    return correlation
