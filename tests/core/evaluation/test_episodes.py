"""Draws of support and query that share nothing."""

from __future__ import annotations

from itertools import islice

import numpy as np

from spade.core.evaluation.episodes import between_blocks, between_groups
from spade.core.spots.blocks import too_near


def test_draws_between_groups_share_no_group():
    rng = np.random.default_rng(0)
    groups, y = np.repeat(np.arange(5), 12), np.arange(60) % 3
    for episode in islice(between_groups(groups, 2, y, 3, 4, rng), 20):
        support = np.concatenate(episode.support)
        assert len(set(groups[support])) == 2
        assert not set(groups[support]) & set(groups[episode.query])
        few, query = episode.shots(2)
        more, same = episode.shots(4)
        assert set(few) <= set(more)
        np.testing.assert_array_equal(query, same)
        assert np.bincount(y[more]).tolist() == [4, 4, 4]
    assert not list(between_groups(groups, 2, y, 3, 9, rng))  # no two groups have nine of a class


def test_draws_between_blocks_keep_the_guard_band():
    rng = np.random.default_rng(0)
    points = np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0)), -1).reshape(-1, 2)
    rows, y = np.arange(1_000, 1_400), np.zeros(1_400, dtype=int)
    y[1_000:] = np.arange(400) % 3
    origins = set()
    for _ in range(10):
        episode = between_blocks(rows, points, 5.0, 2.0, y=y, n_classes=3, max_shots=8, rng=rng)
        support, query = np.concatenate(episode.support), episode.query
        apart = np.abs(points[support - 1_000][:, None] - points[query - 1_000][None]).max(2)
        assert apart.min() >= 2
        origins.add(tuple(sorted(query)))
    assert len(origins) == 10
    assert too_near(points[:3], points[:0], 5).tolist() == [False] * 3
