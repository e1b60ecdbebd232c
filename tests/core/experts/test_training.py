"""Training of experts on plain arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.experts import paired

from spade.core.errors import NonFiniteLossError
from spade.core.evaluation.retrieval import chance_rank, chance_recall, pair_ranks, recall_at
from spade.core.experts.config import TrainingConfig
from spade.core.experts.train import fold_scaling, train_experts
from spade.core.roles import NOT_USED, TRAIN, VAL
from spade.core.schedule import cosine


def train_one(features, expression, config, **options):
    """Train one expert on all rows."""
    rows = np.zeros(len(features), int)
    return train_experts(features, expression, rows, np.full(len(features), TRAIN), 1, config, **options)[1][0]


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
        ({"dropout": 1.0}, r"dropout=1.0: expected a number from 0 to below 1"),
        ({"precision": "fp8"}, r"precision='fp8': expected one of 'fp32', 'bf16'"),
        ({"learn_temperature": True}, r'learn_temperature=True needs loss="clip"'),
    ],
)
def test_settings_are_checked(setting, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**setting)
