"""Ranks of pairs and what chance gives."""

from __future__ import annotations

import numpy as np
import pytest

from spade.core.evaluation.retrieval import chance_rank, chance_recall, group_sizes, pair_ranks, recall_at


def test_ranks_and_chance_levels():
    gallery = np.eye(4)
    np.testing.assert_array_equal(pair_ranks(gallery, gallery), [1, 1, 1, 1])
    np.testing.assert_array_equal(pair_ranks(gallery, gallery[[1, 0, 2, 3]]), [3, 3, 1, 1])
    rng = np.random.default_rng(0)
    ranks = np.concatenate([pair_ranks(rng.normal(size=(100, 3)), rng.normal(size=(100, 3))) for _ in range(50)])
    assert recall_at(ranks, 10) == pytest.approx(chance_recall(np.full(100, 100), 10), abs=0.02)
    assert np.median(ranks) == pytest.approx(chance_rank(np.full(100, 100)), abs=3)
    assert chance_recall(group_sizes(np.array([0, 0, 1, 1])), 1) == 0.5
    assert [chance_rank(np.full(n, n)) for n in (1, 4, 5)] == [1, 2.5, 3]
    uneven = np.repeat([0, 1], [30, 90])
    drawn = np.concatenate([np.concatenate([rng.permutation(30), rng.permutation(90)]) + 1 for _ in range(200)])
    assert chance_rank(group_sizes(uneven)) == pytest.approx(np.median(drawn), abs=1)
