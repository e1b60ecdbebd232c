"""Experts side by side, and batches from arrays of any kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.experts import ragged, rows_of
from scipy.sparse import random as random_sparse

from spade.core.experts.batches import DeviceBatches, HostBatches
from spade.core.experts.config import TrainingConfig
from spade.core.experts.parameters import ExpertParameters
from spade.core.experts.train import train_experts
from spade.core.roles import TRAIN, VAL

# --- side by side


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "soft_clip"},
        {"loss": "clip", "temperature": 0.1},
        {"loss": "clip", "temperature": 0.5, "learn_temperature": True, "dropout": 0.0},
    ],
    ids=["soft_clip", "clip", "clip with its own temperature"],
)
@pytest.mark.parametrize("validation", [False, True])
def test_experts_side_by_side_are_those_trained_one_by_one(settings, validation):
    features, expression, expert_of = ragged()
    role = np.full(len(expert_of), TRAIN)
    if validation:
        role[np.flatnonzero(expert_of == 0)[::5]] = VAL
        role[np.flatnonzero(expert_of == 2)[:2]] = VAL
    config = TrainingConfig(n_epochs=4, batch_size=16, lr=1e-3, **settings)
    alone, side = (
        train_experts(features, expression, expert_of, role, 5, config, seed=3, n_side_by_side=together)
        for together in (1, 5)
    )
    apart = ~np.isclose(rows_of(side[1]), rows_of(alone[1]), atol=2e-5)
    assert apart.mean() < 1e-5  # AdamW makes steps of lr from gradients that are nothing but rounding
    np.testing.assert_allclose(rows_of(side[1]), rows_of(alone[1]), atol=config.lr)
    for one, other in zip(alone[1], side[1], strict=True):
        np.testing.assert_allclose(other.train_loss, one.train_loss, rtol=1e-4)
        np.testing.assert_allclose(other.val_loss, one.val_loss, rtol=1e-4)
        assert one.best_epoch == other.best_epoch
    moved = np.abs(
        rows_of(alone[1])[:3] - rows_of(train_experts(features, expression, expert_of, role - 1, 5, config)[1])[:3]
    )
    assert (moved.max(1) > 1e-3).all()


@pytest.mark.parametrize("path", ["_update_fused", "_update_rows"])
def test_steps_are_those_of_adamw(path):
    """Against torch's own optimiser, with a step count and a learning rate of its own for each expert."""
    torch.manual_seed(0)
    flat = ExpertParameters(2, 5, 7, 4, training=True)
    flat.values.normal_()
    shapes = [(*shape,) for shape in flat.shapes.values()]
    experts = [[view[e].clone().requires_grad_() for view in flat.views(flat.values).values()] for e in range(2)]
    temperatures = [flat.values[e, -1].clone().requires_grad_() for e in range(2)]
    rates = [0.1, 0.02]
    optimisers = [
        torch.optim.AdamW(
            [{"params": experts[e], "weight_decay": 0.3}, {"params": [temperatures[e]], "weight_decay": 0.0}],
            lr=rates[e],
        )
        for e in range(2)
    ]
    for step in range(4):
        k = 2 if step < 2 else 1  # the second expert has finished
        gradients = [torch.randn(k, *shape) for shape in shapes] + [torch.randn(k)]
        flat.take(gradients)
        with torch.no_grad():
            getattr(flat, path)([step] * k, rates[:k], 0.3)
        for e in range(k):
            for parameter, gradient in zip([*experts[e], temperatures[e]], gradients, strict=True):
                parameter.grad = gradient[e].clone()
            optimisers[e].step()
    for e in range(2):
        wanted = [*(value.detach() for value in experts[e]), temperatures[e].detach()]
        found = [*(view[e] for view in flat.views(flat.values).values()), flat.values[e, -1]]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)


# --- batches


@pytest.mark.parametrize("kind", ["float32", "float16", "memory map"])
def test_batches_are_the_rows_asked_for(kind, tmp_path):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 6)).astype("float16" if kind == "float16" else "float32")
    if kind == "memory map":
        np.save(tmp_path / "x.npy", features)
        features = np.load(tmp_path / "x.npy", mmap_mode="r")
    expression = random_sparse(40, 9, 0.3, format="csr", dtype=np.float32, rng=rng)
    mean, deviation = rng.normal(size=6), rng.uniform(0.5, 2, size=6)
    wanted = (np.asarray(features, np.float64) - mean) / deviation
    for feed in (
        HostBatches(features, expression, mean, deviation),
        DeviceBatches(features, expression, mean, deviation, device="cpu"),
    ):
        for rows in ([rng.permutation(40)[:8]], [rng.permutation(40)[:n] for n in (8, 3, 1)], [np.array([39, 0])]):
            image, spot = feed.batch(rows)
            assert image.dtype == spot.dtype == torch.float32
            for i, own in enumerate(rows):
                np.testing.assert_allclose(image[i, : len(own)], wanted[own], atol=1e-5)
                np.testing.assert_array_equal(spot[i, : len(own)], expression[own].toarray())
                assert not image[i, len(own) :].any()
                assert not spot[i, len(own) :].any()


def test_half_precision_and_mapped_features_train_as_float32_does(tmp_path):
    features, expression, expert_of = ragged()
    features = features.astype(np.float16)
    np.save(tmp_path / "x.npy", features)
    config = TrainingConfig(n_epochs=2, batch_size=16)
    role = np.full(len(expert_of), TRAIN)
    found = [
        rows_of(train_experts(x, expression, expert_of, role, 5, config)[1])
        for x in (features.astype(np.float32), features, np.load(tmp_path / "x.npy", mmap_mode="r"))
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
