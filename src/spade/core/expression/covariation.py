"""Which genes change together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import LinearOperator, eigsh

from spade.core.arrays import Floats
from spade.core.expression.normalise import CHUNK, group_sums
from spade.core.rng import numpy_stream

#: Principal components that describe what genes share, and the most spots that they are found on.
N_FACTORS, MOST_SPOTS = 20, 20_000
#: Prefix of its arrays in the file of a model.
PREFIX = "covariation."


@dataclass(frozen=True)
class Covariation:
    """Covariance of the genes of a panel over spots: what they share, and what each has for itself.

    Attributes
    ----------
    factors
        ``(k, G)``; the shared covariance is ``factors.T @ factors``.
    residual
        Variance ``(G,)`` of each gene beside it, most of which is noise of counting.
    """

    factors: NDArray[np.float32]
    residual: NDArray[np.float32]

    @classmethod
    def take(cls, arrays: dict[str, NDArray[Any]], n_genes: int) -> Covariation | None:
        """Take :meth:`stored` out of the arrays of a model, None in models of earlier versions.

        Anything but the covariation of ``n_genes`` genes is an error.
        """
        factors, residual = (arrays.pop(f"{PREFIX}{name}", None) for name in ("factors", "residual"))
        if factors is None and residual is None:
            return None
        if factors is None or residual is None or factors.shape[1:] != (n_genes,) or residual.shape != (n_genes,):
            raise ValueError(f"the covariation of the genes is not of {n_genes} genes")
        return cls(factors, residual)

    def stored(self) -> dict[str, NDArray[Any]]:
        """Return its arrays by the names that they have in the file of a model."""
        return {f"{PREFIX}{name}": array for name, array in vars(self).items()}

    @classmethod
    def of(cls, expression: csr_matrix, rows: NDArray[np.integer], seed: int) -> Covariation | None:
        """Find it on some rows of log-normalised expression ``(n, G)``; None for fewer than 3 rows or genes.

        The factors are those of probabilistic PCA (Tipping and Bishop 1999): principal components without the variance
        that noise has in every direction.
        """
        if len(rows) > MOST_SPOTS:
            rows = np.sort(numpy_stream(seed, "covariation").choice(rows, MOST_SPOTS, replace=False))
        n, n_genes = len(rows), expression.shape[1]
        k = min(N_FACTORS, n - 1, n_genes - 1)
        if k < 2:
            return None
        (sums,), (squares,) = group_sums(expression, rows, np.zeros(expression.shape[0], dtype=np.int64), 1)
        mean, blocks = sums / n, [expression[rows[i : i + CHUNK]] for i in range(0, n, CHUNK)]

        def covariance(v: Floats) -> Floats:
            total = np.zeros(n_genes)
            for block in blocks:  # in float64, one block at a time
                scores = block @ v - mean @ v
                total += block.T @ scores - mean * scores.sum()
            return total / (n - 1)

        start = numpy_stream(seed, "covariation", 1).standard_normal(n_genes)
        values, vectors = eigsh(LinearOperator((n_genes, n_genes), covariance, dtype=np.float64), k=k, v0=start)
        variance = (squares - n * mean**2) / (n - 1)
        noise = max(variance.sum() - values.sum(), 0) / (n_genes - k)
        factors = vectors.T * np.sqrt(np.maximum(values - noise, 0))[:, None]
        return cls(factors.astype(np.float32), np.maximum(variance - np.square(factors).sum(0), 0).astype(np.float32))

    def expected(self, genes: NDArray[np.integer], change: Floats) -> NDArray[np.float64]:
        """Return the change ``(G,)`` of all genes that goes along with a measured change of some, ``(len(genes),)``.

        It is the conditional mean of what the genes share, in a normal distribution with this covariance:
        Σ_{·,S} (Σ_SS + Ψ_S)⁻¹ change. A gene whose counts are mostly noise therefore says little, and one that varies
        with no other says nothing.
        """
        factors = self.factors.astype(np.float64)
        named = factors[:, genes]
        total = named.T @ named + np.diag(np.maximum(self.residual[genes], 1e-6))
        return np.asarray(factors.T @ (named @ np.linalg.solve(total, change)))
