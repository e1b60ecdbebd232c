"""Ridge regression of all genes, and the choice of its penalty by cross-validation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse

from spade.core.arrays import Floats, Rows

#: Genes in a dense block.
N_GENES = 1_024
#: Penalties to choose from, for features of deviation 1.
ALPHAS = np.logspace(0, 6, 13)


def gene_blocks(y: csr_matrix | Floats) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield blocks of columns, dense, with their positions."""
    matrix: Any = y.tocsc() if issparse(y) else np.asarray(y)  # type: ignore[union-attr]
    for start in range(0, y.shape[1], N_GENES):
        columns = slice(start, start + N_GENES)
        block = matrix[:, columns]
        yield columns, np.asarray(block.toarray() if issparse(block) else block, dtype=np.float64)


@dataclass(frozen=True)
class Ridge:
    """Ridge regression of all genes at once, for any penalty α.

    Σ‖y − xB‖² + α‖B‖² is least for B = V (Λ + α)⁻¹ Vᵀ Xᵀ Y, with XᵀX = V Λ Vᵀ.

    Attributes
    ----------
    mean, offset
        Means of x ``(d,)`` and of y ``(G,)``; 0 without intercept.
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
        """Return the coefficients B ``(d, G)``."""
        return self.vectors @ (self.cross[:, columns] / (self.values + alpha)[:, None])

    def predict(self, x: Floats, alpha: float, columns: slice = slice(None)) -> Floats:
        """Return the prediction ``(n, G)`` for features ``(n, d)``."""
        return (x - self.mean) @ self.coefficients(alpha, columns) + self.offset[columns]


def fit_ridge(x: Floats, y: csr_matrix | Floats, *, intercept: bool = True) -> Ridge:
    """Fit all genes ``(n, G)`` to features ``(n, d)``."""
    x = np.asarray(x, dtype=np.float64)
    mean = x.mean(0) if intercept else np.zeros(x.shape[1])
    offset = np.asarray(y.mean(0), dtype=np.float64).ravel() if intercept else np.zeros(y.shape[1])
    centred = x - mean
    values, vectors = np.linalg.eigh(centred.T @ centred)
    cross = np.asarray(y.T @ centred).T  # centred features sum to 0, so the means of y cancel
    return Ridge(mean, offset, vectors, np.maximum(values, 0), vectors.T @ cross)


@dataclass(frozen=True)
class HeldOut:
    """Errors on held-out rows of all folds, one row per penalty.

    Attributes
    ----------
    squared
        Mean squared error ``(A, G)``.
    explained
        Share ``(A, G)`` of the variance within folds that is explained, without the offsets of whole folds; NaN for a
        gene that does not vary.
    """

    squared: Floats
    explained: Floats


def ridge_errors(x: Floats, y: csr_matrix | Floats, folds: list[tuple[Rows, Rows]], alphas: Floats) -> HeldOut:
    """Fit on the training rows of every fold, and measure the errors on its test rows for all penalties."""
    squared, centred = np.zeros((2, len(alphas), y.shape[1]))
    total, n = np.zeros(y.shape[1]), 0
    for train, test in folds:
        model = fit_ridge(x[train], y[train])
        n += len(test)
        for columns, truth in gene_blocks(y[test]):
            total[columns] += np.square(truth - truth.mean(0)).sum(0)
            for i, alpha in enumerate(alphas):
                error = truth - model.predict(x[test], alpha, columns)
                squared[i, columns] += np.square(error).sum(0)
                centred[i, columns] += np.square(error - error.mean(0)).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        explained = np.where(total > 0, 1 - centred / total, np.nan)
    return HeldOut(squared / max(n, 1), explained)


def best_penalty(errors: HeldOut) -> int:
    """Return the position of the penalty that explains most on average over genes; the last if no gene varies."""
    known = ~np.isnan(errors.explained[0])
    return int(np.argmax(errors.explained[:, known].mean(1))) if known.any() else len(errors.explained) - 1
