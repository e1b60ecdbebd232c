"""Fit clusters and programs to image features, and measure on held-out rows which can be predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spade.core.arrays import Floats, Rows
from spade.core.evaluation.metrics import area_under_roc
from spade.core.expression.activity import gene_correlations
from spade.core.expression.correlation import pearson_per_gene
from spade.core.expression.gates import blocks_of, fit_gates, held_out_logits, leading_directions
from spade.core.expression.ridge import ALPHAS, best_penalty, fit_ridge, ridge_errors
from spade.core.roles import TRAIN
from spade.tl._programs.rows import ProgramRows
from spade.tl._programs.targets import Clusterings

Folds = Sequence[tuple[Rows, Rows]]
#: A score counts as predictable if it is above this, and three standard errors above chance.
MIN_AUROC, MIN_CORRELATION, ERRORS = 0.65, 0.25, 3
N_TOP_GENES = 5
COLUMNS = ["kind", "column", "n_clusters", "name", "measure", "held_out", "predictable", "n_spots", "genes"]


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


def report(
    rows: ProgramRows,
    found: Clusterings,
    activity: Floats,
    scores: tuple[Floats, Floats],
    centred: Floats,
    genes: Sequence[str],
) -> pd.DataFrame:
    """Return a row per cluster and program: how well held-out rows are predicted, and the genes that go with it."""
    train = rows.role == TRAIN
    entries: list[list[object]] = []
    member = np.concatenate(
        [(found.labels[train, [column]][:, None] == np.arange(k)) for column, k in enumerate(found.sizes)], axis=1
    ).astype(np.float64)
    top = _top_genes(np.concatenate([member, activity[train]], axis=1), centred[train], genes)
    n = int(train.sum())
    for block, size in zip(blocks_of(found.sizes), found.sizes, strict=True):
        for k in range(size):
            score, spots, named = (
                scores[0][block.start + k],
                int(member[:, block.start + k].sum()),
                top[block.start + k],
            )
            error = np.sqrt((n + 1) / (12 * max(spots, 1) * max(n - spots, 1)))
            good = bool(score > max(MIN_AUROC, 0.5 + ERRORS * error))
            name = found.names[k] if found.names else ", ".join(named[:3]) or f"cluster {k} of {size}"
            entries.append(
                ["cluster", block.start + k, size, name, "auroc", float(score), good, spots, ", ".join(named)]
            )
    for p, score in enumerate(scores[1]):
        named = top[member.shape[1] + p]
        good = bool(score > max(MIN_CORRELATION, ERRORS / np.sqrt(n)))
        spots = int((activity[train, p] > 0).sum())
        entries.append(
            [
                "program",
                len(entries),
                0,
                ", ".join(named[:3]),
                "correlation",
                float(score),
                good,
                spots,
                ", ".join(named),
            ]
        )
    return pd.DataFrame(entries, columns=COLUMNS)


def _top_genes(scores: Floats, centred: Floats, genes: Sequence[str]) -> list[list[str]]:
    """Return the genes that correlate most with every score; none if there is no expression."""
    if not centred.shape[1]:
        return [[] for _ in range(scores.shape[1])]
    order = np.argsort(-gene_correlations(scores, centred), axis=1, kind="stable")[:, :N_TOP_GENES]
    return [[genes[i] for i in row] for row in order]
