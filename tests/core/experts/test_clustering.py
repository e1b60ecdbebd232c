"""k-means and the two stages of clustering."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from spade.core.distributed.threads import threads
from spade.core.experts import clustering
from spade.core.experts.clustering import ScaledRows, kmeans, two_stage


def blobs(rng, centres, n=60, spread=0.3):
    labels = np.repeat(np.arange(len(centres)), n)
    return centres[labels] + rng.normal(0, spread, size=(len(labels), centres.shape[1])), labels


def test_kmeans_is_as_good_as_lloyd_of_scikit_learn():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, 12)).astype(np.float32)
    _, labels, inertia = kmeans(x, 20, rng=np.random.default_rng(1))
    theirs = KMeans(20, n_init=5, max_iter=50, random_state=0).fit(x).inertia_
    assert inertia < 1.01 * theirs
    assert len(np.unique(labels)) == 20


def test_iterations_are_those_of_lloyd_at_equal_starts(monkeypatch):
    monkeypatch.setattr("spade.core.experts.clustering.CHUNK", 128)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 7)).astype(np.float32)
    starts = x[rng.choice(1000, 9, replace=False)]
    for n in (1, 5):
        theirs = KMeans(9, init=starts, n_init=1, max_iter=n, tol=0, algorithm="lloyd").fit(x)
        centroids, labels, inertia = kmeans(x, 9, max_iter=n, starts=starts, rng=rng)
        np.testing.assert_allclose(centroids, theirs.cluster_centers_, atol=1e-4)
        assert (labels == theirs.labels_).mean() > 0.999
        assert inertia == pytest.approx(theirs.inertia_, rel=1e-4)


@pytest.mark.parametrize("move", [clustering._move, clustering._move_by_products])
def test_sums_of_clusters_follow_the_labels_on_either_device(move):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(370, 6)).astype(np.float32))
    labels, sums = torch.full((370,), 5), torch.zeros(6, 6, dtype=torch.float64)
    for _ in range(3):
        previous, labels = labels, torch.from_numpy(rng.integers(0, 5, 370))
        move(x, previous, labels, sums)
    wanted = np.stack([x.numpy()[labels.numpy() == k].sum(0, dtype=np.float64) for k in range(5)])
    np.testing.assert_allclose(sums[:5].numpy(), wanted, atol=1e-4)


def test_kmeans_does_not_depend_on_the_number_of_threads(monkeypatch):
    monkeypatch.setattr("spade.core.experts.clustering.CHUNK", 64)
    x = np.random.default_rng(0).normal(size=(3000, 12)).astype(np.float32)
    found = []
    for n in (1, 3):
        with threads(n):
            found.append(kmeans(x, 7, rng=np.random.default_rng(1)))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_kmeans_fills_empty_clusters_and_handles_duplicates():
    x = np.repeat(np.array([[0.0, 0], [1, 0], [5, 5]]), 10, axis=0)
    _, labels, inertia = kmeans(x, 3, rng=np.random.default_rng(0))
    assert inertia == pytest.approx(0)
    assert len(np.unique(labels)) == 3
    with pytest.raises(ValueError, match=r"k=31: expected a number from 1 to the number of points, 30"):
        kmeans(x, 31, rng=np.random.default_rng(0))


def test_two_stage_recovers_planted_clusters():
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(4, 20)) * 6
    fine = np.repeat(coarse, 3, axis=0) + rng.normal(size=(12, 20)) * 1.5
    x, labels = blobs(rng, fine)
    groups = np.array(["a", "b"])[labels % 2]
    routing = two_stage(x, groups, n_prototypes=6, n_experts=4, feature_scaling="none")
    assert routing.n_prototypes == 12
    assert routing.groups == ("a",) * 6 + ("b",) * 6
    assert adjusted_rand_score(labels, routing.assign(x)) == 1
    assert adjusted_rand_score(labels // 3, routing.assignment[routing.assign(x)]) == 1


def test_two_stage_warns_of_small_groups_and_refuses_too_many_experts():
    x = np.random.default_rng(0).normal(size=(30, 4))
    groups = np.array(["big"] * 27 + ["tiny"] * 3)
    with pytest.warns(
        UserWarning, match=r"group 'tiny' has fewer spots than n_prototypes=5: it gets one prototype per spot, 3"
    ):
        assert two_stage(x, groups, n_prototypes=5, n_experts=4).n_prototypes == 8
    with pytest.raises(
        ValueError, match=r"n_experts=9 is more than the number of prototypes, 8: lower n_experts or raise"
    ):
        two_stage(x[:8], n_prototypes=8, n_experts=9)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_two_stage_reads_scaled_rows_as_if_they_were_copied(kind):
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(3_000, 5)) * [1, 10, 0.1, 3, 1] + [100, 0, 5, -40, 0]).astype(kind)
    groups = np.array(["a", "b", "c"])[rng.integers(0, 3, len(x))]
    rows = np.flatnonzero(rng.random(len(x)) < 0.7)
    of_rows = two_stage(x, groups, rows=rows, n_prototypes=4, n_experts=3)
    copied = two_stage(x[rows], groups[rows], n_prototypes=4, n_experts=3)
    np.testing.assert_array_equal(of_rows.centroids, copied.centroids)
    np.testing.assert_array_equal(of_rows.assignment, copied.assignment)
    mean, scale = x[rows].mean(0, dtype=np.float64), x[rows].std(0, dtype=np.float64) * np.sqrt(5)
    np.testing.assert_allclose(of_rows.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(of_rows.scale, scale, rtol=1e-6)
    chosen = rows[groups[rows] == "b"]
    scaled = ScaledRows(x, chosen, mean, scale)
    expected = ((x[chosen].astype(np.float64) - mean) / scale).astype(np.float32)
    for part in (scaled[10:20], scaled[torch.arange(10, 20)], scaled.on("cpu")[10:20]):
        np.testing.assert_allclose(part.numpy(), expected[10:20], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scaled[7].numpy(), expected[7], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        kmeans(scaled, 4, rng=np.random.default_rng(0))[2],
        kmeans(expected, 4, rng=np.random.default_rng(0))[2],
        rtol=1e-4,
    )
