"""Normalised expression and sums within groups, against scanpy and dense matrices."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse import random as random_sparse

from spade.core.expression.normalise import group_sums, log_normalise


def test_log_normalise_equals_scanpy():
    import anndata as ad
    import scanpy as sc

    counts = csr_matrix(np.random.default_rng(0).poisson(1.0, size=(20, 30)).astype(np.float32))
    counts[3] = 0
    counts.eliminate_zeros()
    table = ad.AnnData(counts.copy())
    sc.pp.normalize_total(table, target_sum=1e4)
    sc.pp.log1p(table)
    np.testing.assert_allclose(log_normalise(counts).toarray(), table.X.toarray(), rtol=1e-5)
    assert (log_normalise(counts)[3].toarray() == 0).all()


def test_a_spot_with_a_single_count_is_scaled_like_the_others():
    counts = csr_matrix(np.array([[1.0, 0.0], [0.0, 0.5]], dtype=np.float32))
    np.testing.assert_allclose(log_normalise(counts).toarray(), np.log1p([[1e4, 0], [0, 1e4]]), rtol=1e-6)


def test_sums_within_groups_are_those_of_the_dense_matrix(monkeypatch):
    monkeypatch.setattr("spade.core.expression.normalise.CHUNK", 7)
    rng = np.random.default_rng(0)
    x = random_sparse(40, 9, 0.3, format="csr", dtype=np.float32, rng=rng)
    group, rows = rng.integers(0, 3, size=40), rng.permutation(40)[:31]
    sums, squares = group_sums(x, rows, group, 4)
    dense = x.toarray().astype(np.float64)
    for e in range(4):
        own = dense[rows[group[rows] == e]]
        np.testing.assert_allclose(sums[e], own.sum(0))
        np.testing.assert_allclose(squares[e], (own**2).sum(0))
    assert not sums[3].any()
