"""Expression predicted from arrays: neighbours across modalities, ridge regression, and how right it is per gene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse
from scipy.special import softmax

from spade.core.blocks import too_near
from spade.core.retrieval import Nearest
from spade.core.routing import Floats

Rows = NDArray[np.int64]
#: Genes that are made dense at a time.
GENES = 1_024
#: Penalties that are tried, for features of deviation 1.
ALPHAS = np.logspace(0, 6, 13)
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


def neighbour_expression(
    query: Floats, gallery: Floats, y: csr_matrix, k: int, temperature: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and deviation of the expression of every query's ``k`` nearest rows, weighted by softmax(similarity / τ).

    Parameters
    ----------
    query, gallery
        ``(n, d)`` and ``(m, d)``, whose products are similarities.
    y
        ``(m, G)`` expression of the gallery.
    k
        Neighbours; all, if the gallery has no more.
    temperature
        τ: the lower, the more the nearest counts.

    Returns
    -------
    Two arrays ``(n, G)``.
    """
    nearest = Nearest(query, k)
    nearest.update(gallery)
    rows = nearest.rows.numpy()
    weights = softmax(nearest.scores.numpy().astype(np.float64) / temperature, axis=1)
    start = np.arange(len(rows) + 1) * rows.shape[1]
    mixing = csr_matrix((weights.ravel(), rows.ravel(), start), shape=(len(rows), len(gallery)))
    mean = np.empty((len(rows), y.shape[1]), dtype=np.float32)
    deviation = np.empty_like(mean)
    for columns, block in _gene_blocks(y):
        first = mixing @ block
        mean[:, columns] = first
        deviation[:, columns] = np.sqrt(np.maximum(mixing @ block**2 - first**2, 0))
    return mean, deviation


def _gene_blocks(y: csr_matrix | Floats) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Some columns at a time, dense."""
    columns: Any = y.tocsc() if issparse(y) else np.asarray(y)  # type: ignore[union-attr]
    for start in range(0, y.shape[1], GENES):
        some = slice(start, start + GENES)
        block = columns[:, some]
        yield some, np.asarray(block.toarray() if issparse(block) else block, dtype=np.float64)


@dataclass(frozen=True)
class Ridge:
    """Ridge regression of all genes at once, for any penalty: Σ‖y − xB‖² + α‖B‖² has B = V (Λ + α)⁻¹ Vᵀ Xᵀ Y, with XᵀX = V Λ Vᵀ.

    Attributes
    ----------
    mean, offset
        ``(d,)`` and ``(G,)``, means of x and y; 0 without intercept.
    vectors, values
        V ``(d, d)`` and Λ ``(d,)``.
    cross
        Vᵀ Xᵀ Y, ``(d, G)``.
    """

    mean: Floats
    offset: Floats
    vectors: Floats
    values: Floats
    cross: Floats

    def coefficients(self, alpha: float, columns: slice = slice(None)) -> Floats:
        """Return B ``(d, G)``."""
        return self.vectors @ (self.cross[:, columns] / (self.values + alpha)[:, None])

    def predict(self, x: Floats, alpha: float, columns: slice = slice(None)) -> Floats:
        """Return ``(n, G)``."""
        return (x - self.mean) @ self.coefficients(alpha, columns) + self.offset[columns]


def fit_ridge(x: Floats, y: csr_matrix | Floats, intercept: bool = True) -> Ridge:
    """Fit all genes ``(n, G)`` on features ``(n, d)``."""
    x = np.asarray(x, dtype=np.float64)
    mean = x.mean(0) if intercept else np.zeros(x.shape[1])
    offset = np.asarray(y.mean(0), dtype=np.float64).ravel() if intercept else np.zeros(y.shape[1])
    centred = x - mean
    values, vectors = np.linalg.eigh(centred.T @ centred)
    # centred features sum to 0, so the means of y drop out
    cross = np.asarray(y.T @ centred).T
    return Ridge(mean, offset, vectors, np.maximum(values, 0), vectors.T @ cross)


def halves(points: Floats, guard: float) -> list[tuple[Rows, Rows]]:
    """Two folds of one section, cut across its longer side; training rows within ``guard`` of a test row are left out."""
    side = points[:, int(np.argmax(np.ptp(points, axis=0)))]
    upper = side > np.median(side)
    folds = []
    for test in (upper, ~upper):
        near = too_near(points[~test], points[test], guard)
        folds.append((np.flatnonzero(~test)[~near], np.flatnonzero(test)))
    return folds


def section_folds(section: NDArray[np.str_], points: Floats | None, guard: float) -> list[tuple[Rows, Rows]]:
    """Leave one section out; of a single one, halves. Empty if that takes ``points`` that are not known."""
    names = np.unique(section)
    if len(names) > 1:
        return [(np.flatnonzero(section != name), np.flatnonzero(section == name)) for name in names]
    if points is None:
        return []
    return [(train, test) for train, test in halves(points, guard) if len(train) > 1 and len(test) > 1]


@dataclass(frozen=True)
class HeldOut:
    """Errors on rows that were left out, one row per penalty, summed over folds.

    Attributes
    ----------
    squared
        ``(A, G)`` mean squared error.
    explained
        ``(A, G)`` share of the variance within folds that is explained, offsets of whole folds aside; NaN for genes without any.
    """

    squared: Floats
    explained: Floats


def ridge_errors(x: Floats, y: csr_matrix, folds: list[tuple[Rows, Rows]], alphas: Floats) -> HeldOut:
    """Fit on every fold's training rows and compare on the others, for all penalties."""
    squared, centred = np.zeros((2, len(alphas), y.shape[1]))
    total, n = np.zeros(y.shape[1]), 0
    for train, test in folds:
        model = fit_ridge(x[train], y[train])
        n += len(test)
        for columns, truth in _gene_blocks(y[test]):
            total[columns] += np.square(truth - truth.mean(0)).sum(0)
            for i, alpha in enumerate(alphas):
                error = truth - model.predict(x[test], alpha, columns)
                squared[i, columns] += np.square(error).sum(0)
                centred[i, columns] += np.square(error - error.mean(0)).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        explained = np.where(total > 0, 1 - centred / total, np.nan)
    return HeldOut(squared / max(n, 1), explained)


def best_penalty(errors: HeldOut) -> int:
    """Position of the penalty that explains most, averaged over genes; the last one if no gene varies."""
    known = ~np.isnan(errors.explained[0])
    return int(np.argmax(errors.explained[:, known].mean(1))) if known.any() else len(errors.explained) - 1
