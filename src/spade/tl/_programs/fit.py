"""Fit clusters and programs to image features, and score them on held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from spade.core.arrays import Floats, Rows
from spade.core.evaluation.metrics import area_under_roc
from spade.core.expression.correlation import pearson_per_gene
from spade.core.expression.gates import blocks_of, fit_gates, held_out_logits, leading_directions
from spade.core.expression.ridge import ALPHAS, best_penalty, fit_ridge, ridge_errors
from spade.core.roles import TRAIN
from spade.tl._programs.clusterings import Clusterings
from spade.tl._programs.rows import ProgramRows

Folds = Sequence[tuple[Rows, Rows]]


@dataclass(frozen=True)
class Fitted:
    """Linear functions of scaled features, ``(D, k)`` and ``(k,)``, their penalty, and held-out scores ``(k,)``."""

    weights: Floats
    bias: Floats
    penalty: float
    scores: Floats


def fit_clusters(rows: ProgramRows, found: Clusterings, folds: Folds) -> Fitted:
    """Fit logits of all clusters with the penalty that held-out rows choose; scored by the AUROC of each cluster."""
    basis = leading_directions(rows.images)
    x, train = rows.images @ basis, rows.role == TRAIN
    strength, _, logits = held_out_logits(x, found.labels, found.sizes, folds)
    gates = fit_gates(x[train], found.labels[train], found.sizes, strength)
    scores = [
        _mean_score([
            area_under_roc(found.labels[test, column] == k, values[:, block.start + k])
            for (_, test), values in zip(folds, logits, strict=True)
        ])
        for column, block in enumerate(blocks_of(found.sizes))
        for k in range(found.sizes[column])
    ]  # fmt: skip
    return Fitted(basis @ gates.weights, gates.bias, strength, np.array(scores))


def fit_programs(rows: ProgramRows, activity: Floats, folds: Folds) -> Fitted:
    """Fit the activities of programs by ridge regression; scored by their correlation on held-out rows."""
    train, y = rows.role == TRAIN, csr_matrix(activity)
    if not activity.shape[1]:
        return Fitted(np.zeros((rows.images.shape[1], 0)), np.zeros(0), 0.0, np.zeros(0))
    alpha = float(ALPHAS[best_penalty(ridge_errors(rows.images, y, list(folds), ALPHAS))])
    correlations = [
        pearson_per_gene(activity[test], fit_ridge(rows.images[part], activity[part]).predict(rows.images[test], alpha))
        for part, test in folds
    ]
    ridge = fit_ridge(rows.images[train], activity[train])
    weights = ridge.coefficients(alpha)
    scores = np.array([_mean_score(values) for values in np.array(correlations).T])
    return Fitted(weights, ridge.offset - ridge.mean @ weights, alpha, scores)


def _mean_score(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan
