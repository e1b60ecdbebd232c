"""Scores of predicted numbers and of predicted grades."""

from __future__ import annotations

import numpy as np
from scipy.stats import kendalltau

from spade.core.arrays import Floats


def pearson(truth: Floats, predicted: Floats) -> float:
    """Return the correlation over rows ``(n,)``; NaN if one of the two does not vary."""
    if len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(predicted) == 0:
        return np.nan
    a, b = truth - truth.mean(), predicted - predicted.mean()
    return float(np.clip(a / np.linalg.norm(a) @ (b / np.linalg.norm(b)), -1, 1))


def r2(truth: Floats, predicted: Floats, reference: Floats | float) -> float:
    """Return 1 − Σ(truth − predicted)² / Σ(truth − reference)².

    ``reference`` is what would be predicted without features, such as the mean of the training rows, as a number or per
    row. NaN if it is exact.
    """
    total = float(np.square(truth - reference).sum())
    return 1 - float(np.square(truth - predicted).sum()) / total if total > 0 else np.nan


def mean_absolute_error(truth: Floats, predicted: Floats) -> float:
    """Return the mean absolute difference."""
    return float(np.abs(truth - predicted).mean())


def c_index(truth: Floats, predicted: Floats) -> float:
    """Return the share of pairs with different truth that are predicted in the right order.

    Equal predictions count half. NaN if all truth is equal. It is (1 + D) / 2 for Somers' D, which is computed from
    Kendall's τ-b: D = τ √((N − T_p) / (N − T_t)) for N pairs, T_t with equal truth and T_p with equal predictions.
    """
    n_pairs = len(truth) * (len(truth) - 1) / 2
    untied_truth, untied_predicted = (n_pairs - _tied_pairs(values) for values in (truth, predicted))
    if not untied_truth:
        return np.nan
    if not untied_predicted:
        return 0.5
    tau = float(kendalltau(truth, predicted).statistic)
    return 0.5 + 0.5 * tau * float(np.sqrt(untied_predicted / untied_truth))


def _tied_pairs(values: Floats) -> float:
    counts = np.unique(values, return_counts=True)[1]
    return float((counts * (counts - 1) / 2).sum())


def quadratic_kappa(truth: Floats, predicted: Floats) -> float:
    """Return Cohen's kappa with quadratic weights of two gradings ``(n,)``, given as numbers.

    1 − the mean of (truth − predicted)² over rows, divided by its mean over all pairs of a true and a predicted grade
    (Cohen 1968). NaN if all of both are one grade.
    """
    truth, predicted = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    chance = float(truth.var() + predicted.var() + (truth.mean() - predicted.mean()) ** 2)
    return 1 - float(np.square(truth - predicted).mean()) / chance if chance > 0 else np.nan
