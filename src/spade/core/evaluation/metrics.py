"""Scores of a classification, over the classes that occur in the truth; labels are class numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from spade.core.arrays import Floats

Labels = NDArray[np.integer]


def _counts(truth: Labels, predicted: Labels, n_classes: int) -> tuple[Labels, Labels, Labels]:
    """Number of rows of each class, of those predicted as it, and of those predicted rightly."""
    right = np.bincount(truth[truth == predicted], minlength=n_classes)
    return np.bincount(truth, minlength=n_classes), np.bincount(predicted, minlength=n_classes), right


def recalls(truth: Labels, predicted: Labels, n_classes: int) -> Floats:
    """Share of each class that is predicted as it, ``(n_classes,)``; NaN for a class without rows."""
    there, _, right = _counts(truth, predicted, n_classes)
    return np.where(there > 0, right / np.maximum(there, 1), np.nan)


def balanced_accuracy(truth: Labels, predicted: Labels, n_classes: int) -> float:
    """Mean of the classes' recalls."""
    return float(np.nanmean(recalls(truth, predicted, n_classes)))


def macro_f1(truth: Labels, predicted: Labels, n_classes: int) -> float:
    """Mean of the classes' F1: twice the right ones over the number there and the number predicted."""
    there, said, right = _counts(truth, predicted, n_classes)
    return float(np.mean((2 * right / np.maximum(there + said, 1))[there > 0]))


def macro_auroc(truth: Labels, scores: Floats) -> float:
    """Mean over classes of the area under the curve of one class against the rest, from ``(n, n_classes)`` scores.

    Ties count half. NaN if the rows are of one class.
    """
    found = []
    for k in np.unique(truth):
        own = truth == k
        n_own, n_rest = int(own.sum()), int((~own).sum())
        if n_rest:
            found.append((rankdata(scores[:, k])[own].sum() - n_own * (n_own + 1) / 2) / (n_own * n_rest))
    return float(np.mean(found)) if found else np.nan
