"""Clustering, training and patch reading on plain arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse import random as random_sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from spade.core.distributed.threads import threads
from spade.core.errors import NonFiniteLossError
from spade.core.evaluation.retrieval import chance_rank, chance_recall, group_sizes, pair_ranks, recall_at
from spade.core.experts import clustering
from spade.core.experts.clustering import kmeans, two_stage
from spade.core.experts.config import TrainingConfig
from spade.core.experts.train import fold_scaling, train_experts
from spade.core.expression.normalise import group_sums, log_normalise
from spade.core.roles import NOT_USED, TRAIN, VAL
from spade.core.schedule import cosine


def blobs(rng, centres, n=60, spread=0.3):
    labels = np.repeat(np.arange(len(centres)), n)
    return centres[labels] + rng.normal(0, spread, size=(len(labels), centres.shape[1])), labels


def paired(rng, n=120, d=10, g=15, latent=4):
    z = rng.normal(size=(n, latent))
    features = z @ rng.normal(size=(latent, d)) + 0.1 * rng.normal(size=(n, d))
    expression = np.maximum(0, z @ rng.normal(size=(latent, g)))
    return features.astype(np.float32), csr_matrix(expression.astype(np.float32))


def train_one(features, expression, config, **options):
    """Train one expert on all rows."""
    rows = np.zeros(len(features), int)
    return train_experts(features, expression, rows, np.full(len(features), TRAIN), 1, config, **options)[1][0]


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
    with pytest.warns(UserWarning, match=r"group 'tiny' has 3 spots, fewer than n_prototypes=5: it gets 3"):
        assert two_stage(x, groups, n_prototypes=5, n_experts=4).n_prototypes == 8
    with pytest.raises(ValueError, match=r"n_experts=9 is more than the 8 prototypes .* lower n_experts or raise"):
        two_stage(x[:8], n_prototypes=8, n_experts=9)


@pytest.mark.parametrize("loss", ["soft_clip", "clip"])
def test_training_aligns_pairs_it_has_not_seen(loss):
    features, expression = paired(np.random.default_rng(0), n=400)
    role = np.where(np.arange(400) < 300, TRAIN, NOT_USED)
    config = TrainingConfig(
        loss=loss, temperature=1.0 if loss == "soft_clip" else 0.1, n_epochs=30, lr=1e-3, batch_size=64
    )
    experts, trained = train_experts(features, expression, np.zeros(400, int), role, 1, config)
    assert trained[0].train_loss[-1] < trained[0].train_loss[0]
    with torch.no_grad():
        image = experts.image_projection(torch.from_numpy(features[300:])[None])[0].numpy()
        spot = experts.spot_projection(torch.from_numpy(expression[300:].toarray())[None])[0].numpy()
    ranks = pair_ranks(image, spot)
    assert recall_at(ranks, 10) > 4 * chance_recall(np.full(100, 100), 10)
    assert np.median(ranks) < 0.3 * chance_rank(np.full(100, 100))


def test_validation_selects_the_epoch_and_test_rows_are_never_read():
    features, expression = paired(np.random.default_rng(1))
    role = np.array([TRAIN, TRAIN, VAL, NOT_USED] * 30)
    features[role == NOT_USED] = np.nan
    config = TrainingConfig(n_epochs=25, lr=5e-3, batch_size=16)
    _, (one,) = train_experts(features, expression, np.zeros(120, int), role, 1, config)
    assert one.best_epoch == int(np.argmin(one.val_loss))
    used = np.nan_to_num(features)
    _, (again,) = train_experts(used, expression, np.zeros(120, int), role, 1, config)
    assert torch.equal(one.row, again.row)


def test_an_expert_does_not_depend_on_the_others():
    features, expression = paired(np.random.default_rng(2), n=90)
    expert_of = np.arange(90) % 3
    config = TrainingConfig(n_epochs=3, batch_size=16)
    together, _ = train_experts(features, expression, expert_of, np.full(90, TRAIN), 3, config, seed=9)
    alone, _ = train_experts(
        features, expression, expert_of, np.where(expert_of == 2, TRAIN, NOT_USED), 3, config, seed=9
    )
    for key, value in together.state_dict().items():
        assert torch.equal(value[2], alone.state_dict()[key][2])


@pytest.mark.parametrize("sizes", [(50, 1, 0), (5, 17, 33)])
def test_ragged_single_and_empty_experts(sizes):
    features, expression = paired(np.random.default_rng(3), n=sum(sizes))
    expert_of = np.repeat(np.arange(3), sizes)
    config = TrainingConfig(n_epochs=2, batch_size=16)
    experts, trained = train_experts(features, expression, expert_of, np.full(sum(sizes), TRAIN), 3, config)
    assert [len(one.train_loss) for one in trained] == [2 if size else 0 for size in sizes]
    assert all(torch.isfinite(value).all() for value in experts.state_dict().values())


def test_the_same_seed_gives_the_same_bytes():
    features, expression = paired(np.random.default_rng(4))
    config = TrainingConfig(n_epochs=3)
    states = [
        train_experts(features, expression, np.zeros(120, int), np.full(120, TRAIN), 1, config, seed=seed)[
            0
        ].state_dict()
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(*(state["image_projection.fc.weight"] for state in states[1:]))


def test_bf16_trains_close_to_fp32():
    features, expression = paired(np.random.default_rng(5))
    losses = [
        train_one(features, expression, TrainingConfig(n_epochs=5, lr=1e-3, precision=precision)).train_loss[-1]
        for precision in ("fp32", "bf16")
    ]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_a_learnable_temperature_moves():
    features, expression = paired(np.random.default_rng(6))
    config = TrainingConfig(loss="clip", temperature=0.5, learn_temperature=True, n_epochs=10, lr=1e-2)
    assert train_one(features, expression, config).temperature != pytest.approx(0.5)


def test_an_exploding_loss_is_an_error_that_says_what_to_do():
    features, expression = paired(np.random.default_rng(7))
    features[5] = 3e38
    with pytest.raises(NonFiniteLossError, match=r"expert 0: the loss is nan in epoch 0. Lower lr=0.0001"):
        train_one(features, expression, TrainingConfig(n_epochs=1))


def test_the_cosine_schedule_goes_from_one_to_zero():
    factors = [cosine(step, 10) for step in range(11)]
    assert factors[0] == 1
    assert factors[5] == pytest.approx(0.5)
    assert factors[10] == pytest.approx(0)


def test_folded_heads_read_unscaled_features():
    rng = np.random.default_rng(8)
    features, expression = paired(rng)
    mean, deviation = rng.normal(size=10) * 5, rng.uniform(0.1, 10, size=10)
    experts, _ = train_experts(
        features, expression, np.zeros(120, int), np.full(120, TRAIN), 1, TrainingConfig(n_epochs=1)
    )
    raw = torch.from_numpy((features * deviation + mean).astype(np.float32))[None]
    with torch.no_grad():
        wanted = experts.image_projection(torch.from_numpy(features)[None])
        fold_scaling(experts, mean, deviation)
        found = experts.image_projection(raw)
    assert (wanted - found).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"loss": "mse"}, r"loss='mse': expected one of 'soft_clip', 'clip'"),
        ({"n_epochs": 0}, r"n_epochs=0: expected a whole number of at least 1"),
        ({"lr": -1.0}, r"lr=-1.0: expected a positive number"),
        ({"dropout": 1.0}, r"dropout=1.0: expected a number in \[0, 1\)"),
        ({"precision": "fp8"}, r"precision='fp8': expected one of 'fp32', 'bf16'"),
        ({"learn_temperature": True}, r'learn_temperature=True needs loss="clip"'),
    ],
)
def test_settings_are_checked(setting, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**setting)


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
