"""Normalisation of raw counts."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

TARGET_SUM = 1e4


def log_normalise(counts: csr_matrix, target_sum: float = TARGET_SUM) -> csr_matrix:
    """Return log1p of counts scaled to ``target_sum`` per spot, ``(n, G)`` CSR float32; a spot without counts stays zero."""
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    factors = np.divide(target_sum, totals, out=np.zeros_like(totals), where=totals > 0)
    values = np.log1p(counts.data * np.repeat(factors, np.diff(counts.indptr)))
    return csr_matrix((values.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)
