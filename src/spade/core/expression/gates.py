"""Gates: softmax regressions that predict several clusterings from the same features, all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from spade.core.arrays import Floats, Rows

#: Strengths to choose from, the strongest penalty first: C of each regression times the mean squared length of a row.
STRENGTHS = np.array([0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100])
MAX_ITERATIONS, TOLERANCE = 200, 1e-4
#: Most directions of the features that a regression is fitted in; the penalty leaves nothing of the others.
MAX_DIRECTIONS = 512


@dataclass(frozen=True)
class Gates:
    """Logits ``x @ weights + bias`` of all clusterings side by side; ``weights`` ``(d, K)``, ``bias`` ``(K,)``."""

    weights: Floats
    bias: Floats

    def logits(self, x: Floats) -> Floats:
        """Return the logits ``(n, K)`` of features ``(n, d)``."""
        return x @ self.weights + self.bias


def blocks_of(sizes: Sequence[int]) -> list[slice]:
    """Return the columns of every clustering, given their numbers of clusters."""
    ends = np.cumsum(sizes)
    return [slice(int(end) - size, int(end)) for end, size in zip(ends, sizes, strict=True)]


def log_probabilities(logits: Floats, sizes: Sequence[int]) -> Floats:
    """Return log-softmax within the columns of every clustering."""
    starts = np.cumsum([0, *sizes[:-1]])
    shifted = logits - np.repeat(np.maximum.reduceat(logits, starts, axis=1), sizes, axis=1)
    return shifted - np.repeat(np.log(np.add.reduceat(np.exp(shifted), starts, axis=1)), sizes, axis=1)


def leading_directions(x: Floats) -> Floats:
    """Return an orthonormal basis ``(d, r)`` of the rows of ``x``, at most of their ``MAX_DIRECTIONS`` widest."""
    wide = len(x) < x.shape[1]
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    kept = np.flatnonzero(values > 1e-10 * max(float(values[-1]), 1e-300))[-MAX_DIRECTIONS:]
    return x.T @ (vectors[:, kept] / np.sqrt(values[kept])) if wide else vectors[:, kept]


def fit_gates(x: Floats, labels: Rows, sizes: Sequence[int], strength: float, start: Gates | None = None) -> Gates:
    r"""Fit one multinomial logistic regression per clustering.

    Each minimises :math:`C \sum_i -\log p_{y_i}(x_i) + \|W\|^2 / 2` with C = ``strength`` / mean ‖x‖².

    Parameters
    ----------
    x
        Features ``(n, d)``.
    labels
        Cluster of every row in each clustering ``(n, n_clusterings)``, numbered within the clustering.
    sizes
        Number of clusters of each clustering.
    strength
        Inverse strength of the penalty.
    start
        Gates to begin with, such as those of a stronger penalty.
    """
    n, d, k = len(x), x.shape[1], int(np.sum(sizes))
    penalty = max(float(np.square(x).sum(1).mean()), 1e-12) / (strength * n)
    # one more row of features 0 that belongs to all clusters alike, so that a cluster without rows stays possible
    x = np.vstack([x, np.zeros(d)])
    target = np.zeros((n + 1, k))
    target[n] = np.repeat(1 / np.array(sizes), sizes)
    for column, block in enumerate(blocks_of(sizes)):
        target[np.arange(n), block.start + labels[:, column]] = 1

    # along the directions of the features the curvature is at most this: steps of one length then suit all of them
    curvature = np.sqrt(np.square(x).mean(0) / 4 + penalty)[:, None]

    def loss(parameters: Floats) -> tuple[float, Floats]:
        weights, bias = parameters[: d * k].reshape(d, k) / curvature, parameters[d * k :]
        log_p = log_probabilities(x @ weights + bias, sizes)
        rest = (np.exp(log_p) - target) / n
        value = -float(np.sum(log_p * target)) / n + penalty / 2 * float(np.sum(weights**2))
        return value, np.concatenate([((x.T @ rest + penalty * weights) / curvature).ravel(), rest.sum(0)])

    begin = Gates(np.zeros((d, k)), np.zeros(k)) if start is None else start
    first = np.concatenate([(begin.weights * curvature).ravel(), begin.bias])
    options = {"maxiter": MAX_ITERATIONS, "gtol": TOLERANCE, "ftol": 1e-7}
    solved = minimize(loss, first, jac=True, method="L-BFGS-B", options=options).x
    return Gates(solved[: d * k].reshape(d, k) / curvature, solved[d * k :])


def held_out_logits(
    x: Floats, labels: Rows, sizes: Sequence[int], folds: Sequence[tuple[Rows, Rows]]
) -> tuple[float, float, list[Floats]]:
    """Choose the strength with the lowest log loss on held-out rows.

    Strengths are tried from the smallest on, until the loss rises.

    Returns
    -------
    The strength, its mean log loss, and its logits ``(n_test, K)`` of the held-out rows of every fold.
    """
    best: tuple[float, float, list[Floats]] | None = None
    fitted: list[Gates | None] = [None] * len(folds)
    for strength in STRENGTHS.tolist():
        logits, losses = [], []
        for i, (train, test) in enumerate(folds):
            fitted[i] = gates = fit_gates(x[train], labels[train], sizes, strength, fitted[i])
            logits.append(gates.logits(x[test]))
            log_p = log_probabilities(logits[-1], sizes)
            firsts = np.array([block.start for block in blocks_of(sizes)])
            losses.append(-np.take_along_axis(log_p, firsts + labels[test], axis=1))
        loss = float(np.concatenate(losses).mean())
        if best is not None and loss >= best[1]:
            break
        best = strength, loss, logits
    if best is None:
        raise ValueError("folds: none to choose the penalty on.")
    return best
