"""Which genes change together, found again in data where it is known."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from spade.core.expression.covariation import MOST_SPOTS, Covariation


def planted(n, seed=0):
    """Two programs of ten genes each, and a hundred genes of noise."""
    rng = np.random.default_rng(seed)
    loadings = np.zeros((2, 120))
    loadings[0, :10], loadings[1, 10:20] = 1.0, -0.5
    x = rng.normal(size=(n, 2)) @ loadings + rng.normal(size=(n, 120)) * 0.8
    return csr_matrix(np.maximum(x + 5, 0).astype(np.float32)), loadings


def test_the_genes_of_a_program_change_with_one_of_them():
    x, loadings = planted(4_000)
    found = Covariation.of(x, np.arange(4_000), 0)
    change = found.expected(np.array([3]), np.array([2.0]))
    # of a change of 2, 1 / (1 + 0.8²) is the program, the rest is noise of this gene
    expected = 2 * loadings[0] / (1 + 0.8**2)
    np.testing.assert_allclose(change, expected, atol=0.12)
    both = found.expected(np.array([3, 12]), np.array([2.0, 1.0]))
    assert both[:10].mean() > 1
    assert both[10:20].mean() > 0.2
    more = found.expected(np.arange(10), np.full(10, 2.0))
    np.testing.assert_allclose(more, 2 * loadings[0], atol=0.25)  # ten genes hardly leave a doubt


def test_the_sample_of_spots_is_drawn_by_the_seed_and_few_spots_give_nothing():
    x, _ = planted(MOST_SPOTS + 500)
    rows = np.arange(MOST_SPOTS + 500)
    first, same, other = (Covariation.of(x, rows, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.residual, same.residual)
    np.testing.assert_allclose(np.abs(first.factors), np.abs(same.factors), rtol=1e-4, atol=1e-5)
    assert not np.array_equal(first.residual, other.residual)
    assert Covariation.of(x, rows[:2], 0) is None
