"""A representation in two dimensions."""

from __future__ import annotations

import numpy as np
import pytest

from spade.tl._embedding.umap import METRICS, UmapSettings


def clusters(n=40):
    x = np.random.default_rng(0).normal(size=(n, 5))
    x[: n // 2] += 30
    return x.astype(np.float32)


def flat(metric="euclidean", seed=0):
    return UmapSettings(10, 0.5, metric, seed).coordinates(clusters(), "x")


def test_far_clusters_stay_apart_and_a_seed_repeats():
    xy = flat()
    assert xy.shape == (40, 2)
    near = np.linalg.norm(xy[:, None] - xy, axis=2) + 1e9 * np.eye(40)
    assert ((near.argmin(1) < 20) == (np.arange(40) < 20)).all()
    np.testing.assert_array_equal(xy, flat())
    assert not np.array_equal(xy, flat(seed=1))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.slow
def test_every_metric_works(metric):
    assert np.isfinite(flat(metric)).all()
