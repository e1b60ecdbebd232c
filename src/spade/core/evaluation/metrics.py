"""Scores of a classification, over the classes that occur in the truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from spade.core.arrays import Floats

#: Numbers of classes or groups.
Labels = NDArray[np.integer]


def _counts(truth: Labels, predicted: Labels, n_classes: int) -> tuple[Labels, Labels, Labels]:
    """Return the number of rows of each class, predicted as it, and of both."""
    right = np.bincount(truth[truth == predicted], minlength=n_classes)
    return np.bincount(truth, minlength=n_classes), np.bincount(predicted, minlength=n_classes), right


def recalls(truth: Labels, predicted: Labels, n_classes: int) -> Floats:
    """Return the recall of each class, ``(n_classes,)``; NaN for a class without rows."""
    n_true, _, n_right = _counts(truth, predicted, n_classes)
    return np.where(n_true > 0, n_right / np.maximum(n_true, 1), np.nan)


def balanced_accuracy(truth: Labels, predicted: Labels, n_classes: int) -> float:
    """Return the mean recall of the classes."""
    return float(np.nanmean(recalls(truth, predicted, n_classes)))


def macro_f1(truth: Labels, predicted: Labels, n_classes: int) -> float:
    """Return the mean F1 of the classes: 2 · right / (true + predicted) rows."""
    n_true, n_predicted, n_right = _counts(truth, predicted, n_classes)
    return float(np.mean((2 * n_right / np.maximum(n_true + n_predicted, 1))[n_true > 0]))


def macro_auroc(truth: Labels, scores: Floats) -> float:
    """Return the mean area under the ROC curve of each class against the rest, from scores ``(n, n_classes)``.

    Ties count half. NaN if all rows have the same class.
    """
    areas = [area_under_roc(truth == k, scores[:, k]) for k in np.unique(truth)]
    return float(np.mean(areas)) if len(areas) > 1 else np.nan


def area_under_roc(is_positive: NDArray[np.bool_], scores: Floats) -> float:
    """Return the area under the ROC curve; ties count half. NaN if all rows are of one kind."""
    n, n_rest = int(is_positive.sum()), int((~is_positive).sum())
    if not (n and n_rest):
        return np.nan
    return float((rankdata(scores)[is_positive].sum() - n * (n + 1) / 2) / (n * n_rest))
