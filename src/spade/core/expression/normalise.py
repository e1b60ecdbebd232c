"""Normalisation of raw counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade.core.arrays import scale_of

#: Counts per spot after scaling.
TARGET_SUM = 1e4
#: Rows at a time.
CHUNK = 2_048


def log_normalise(counts: csr_matrix, target_sum: float = TARGET_SUM) -> csr_matrix:
    """Return log1p of counts ``(n, G)`` scaled to ``target_sum`` per spot, CSR float32; spots without counts stay 0."""
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    factors = np.divide(target_sum, totals, out=np.zeros_like(totals), where=totals > 0)
    values = np.repeat(factors, np.diff(counts.indptr))
    values *= counts.data
    np.log1p(values, out=values)  # in place, as this is the largest array that reading a store takes
    return csr_matrix((values.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)


def group_sums(
    x: csr_matrix, rows: NDArray[np.integer], group: NDArray[np.integer], n_groups: int
) -> NDArray[np.float64]:
    """Return sums and sums of squares of some rows by group, ``(2, n_groups, G)``, without a copy of the matrix."""
    sums = np.zeros((2, n_groups, x.shape[1]))
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        block = x[chunk].astype(np.float64)
        member = csr_matrix((np.ones(len(chunk)), (group[chunk], np.arange(len(chunk)))), shape=(n_groups, len(chunk)))
        sums[0] += member @ block
        block.data **= 2
        sums[1] += member @ block
    return sums


def gene_scale(x: csr_matrix, rows: NDArray[np.integer]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and deviation ``(G,)`` of every gene over some rows; the deviation of a constant gene is 1."""
    (sums,), (squares,) = group_sums(x, rows, np.zeros(x.shape[0], dtype=np.int64), 1)
    mean = sums / len(rows)
    return mean, scale_of(mean, squares / len(rows) - mean**2)
