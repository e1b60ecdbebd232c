"""Heads that read bags, against float64 references; their training; folds that share no patient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit, softmax

from spade.core.errors import NonFiniteLossError
from spade.core.evaluation.folds import groups_per_class, inner_split, stratified_folds
from spade.core.rng import torch_stream
from spade.core.slides.heads import HEADS, KERNELS, N_HEADS, make_head
from spade.core.slides.train import train_bags


def head(name, d_in=6, n_out=3, seed=0, **options):
    return make_head(name, d_in, n_out, **{"hidden": 16, "generator": torch_stream(seed, "test"), **options}).eval()


def arrays(module):
    return {name: value.double().numpy() for name, value in module.state_dict().items()}


def bag(n=7, d=6, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32))


# --- heads


def test_gated_attention_is_that_of_the_paper():
    module, x = head("abmil"), bag().double().numpy()
    w = arrays(module)
    h = np.maximum(x @ w["embed.weight"].T + w["embed.bias"], 0)
    v, u = np.split(w["gate.weight"], 2)
    v0, u0 = np.split(w["gate.bias"], 2)
    a = softmax((np.tanh(h @ v.T + v0) * expit(h @ u.T + u0)) @ w["score.weight"][0] + w["score.bias"][0])
    outputs, attention = module(bag())
    np.testing.assert_allclose(attention.detach(), a, rtol=1e-5)
    np.testing.assert_allclose(outputs.detach(), w["out.weight"] @ (a @ h) + w["out.bias"], atol=1e-6)


def test_gated_attention_of_several_layers():
    module, x = head("abmil", hidden=(8, 5, 3)), bag().double().numpy()
    w = arrays(module)
    h = np.maximum(x @ w["embed.weight"].T + w["embed.bias"], 0)
    h = np.maximum(h @ w["deeper.0.weight"].T + w["deeper.0.bias"], 0)
    assert (h.shape[1], w["gate.weight"].shape) == (5, (6, 5))
    v, u = np.split(w["gate.weight"], 2)
    v0, u0 = np.split(w["gate.bias"], 2)
    a = softmax((np.tanh(h @ v.T + v0) * expit(h @ u.T + u0)) @ w["score.weight"][0] + w["score.bias"][0])
    outputs, attention = module(bag())
    np.testing.assert_allclose(attention.detach(), a, rtol=1e-5)
    np.testing.assert_allclose(outputs.detach(), w["out.weight"] @ (a @ h) + w["out.bias"], atol=1e-6)
    one, pair = head("abmil", hidden=16), head("abmil", hidden=(16, 8))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), pair.parameters(), strict=True))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 9, 10])
def test_transmil_is_that_of_the_paper(n):
    module, x = head("transmil"), bag(n).double().numpy()
    w = arrays(module)

    def norm(tokens, layer):
        centred = tokens - tokens.mean(-1, keepdims=True)
        return centred / np.sqrt(tokens.var(-1, keepdims=True) + 1e-5) * w[f"{layer}.weight"] + w[f"{layer}.bias"]

    def attend(tokens, layer):
        """All of it, by a loop over attention heads."""
        mixed, found = [], []
        q, k, v = np.split(
            norm(tokens, f"{layer}.norm") @ w[f"{layer}.qkv.weight"].T + w[f"{layer}.qkv.bias"], 3, axis=1
        )
        for own in np.split(np.arange(16), N_HEADS):
            a = softmax(q[:, own] @ k[:, own].T / np.sqrt(len(own)), axis=1)
            mixed.append(a @ v[:, own])
            found.append(a[0])
        return tokens + np.hstack(mixed) @ w[f"{layer}.out.weight"].T + w[f"{layer}.out.bias"], np.mean(found, 0)

    side = int(np.ceil(np.sqrt(n)))
    h = np.maximum(x @ w["embed.weight"].T + w["embed.bias"], 0)
    which = np.arange(side * side) % n
    tokens, _ = attend(np.vstack([w["token"], h[which]]), "first")
    square = tokens[1:].reshape(side, side, 16)
    placed = square.copy()
    for i, size in enumerate(KERNELS):
        padded = np.pad(square, ((size // 2,) * 2, (size // 2,) * 2, (0, 0)))
        for r in range(side):
            for c in range(side):
                window = padded[r : r + size, c : c + size]
                placed[r, c] += (window * w[f"place.{i}.weight"][:, 0].transpose(1, 2, 0)).sum((0, 1)) + w[
                    f"place.{i}.bias"
                ]
    tokens, a = attend(np.vstack([tokens[:1], placed.reshape(-1, 16)]), "last")
    outputs, attention = module(bag(n))
    np.testing.assert_allclose(outputs.detach(), w["out.weight"] @ norm(tokens[0], "norm") + w["out.bias"], atol=1e-5)
    np.testing.assert_allclose(attention.detach(), np.bincount(which, a[1:]) / a[1:].sum(), rtol=1e-4)


def test_a_mean_is_a_linear_layer_on_the_mean():
    module = head("mean")
    w = arrays(module)
    outputs, attention = module(bag())
    np.testing.assert_allclose(
        outputs.detach(), w["out.weight"] @ bag().double().numpy().mean(0) + w["out.bias"], atol=1e-6
    )
    np.testing.assert_allclose(attention, 1 / 7)


@pytest.mark.parametrize("name", ["mean", "abmil"])
def test_the_order_of_patches_does_not_matter(name):
    module, x, order = head(name), bag(20), np.random.default_rng(1).permutation(20)
    outputs, attention = module(x)
    again, moved = module(x[order])
    torch.testing.assert_close(again, outputs)
    torch.testing.assert_close(moved, attention[order])


@pytest.mark.parametrize("name", HEADS)
def test_gradients_are_those_of_differences(name):
    module, x = head(name).double(), bag(5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module(x)[0], x)
    module(x)[0].sum().backward()
    assert all(value.grad is not None and torch.isfinite(value.grad).all() for value in module.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_bags_of_every_size_have_attention_that_sums_to_one(name):
    for n in (1, 2, 3, 4, 5, 30):
        outputs, attention = head(name)(bag(n))
        assert outputs.shape == (3,)
        assert attention.shape == (n,)
        assert float(attention.detach().sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_weights_come_from_the_generator_alone(name):
    state = torch.random.get_rng_state()
    one, again, other = (head(name, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("shape", [(0, 6), (4, 5), (6,), (1, 4, 6)])
def test_bags_of_another_shape(shape):
    for name in HEADS:
        with pytest.raises(ValueError, match=r"bag has shape .*; expected \(n, 6\) with n > 0"):
            head(name)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("max", {}, "head='max': expected one of 'mean', 'abmil', 'transmil'"),
        ("abmil", {"dropout": 1.0}, r"dropout=1.0: expected a number from 0 to below 1"),
        ("abmil", {"hidden": 0}, "hidden=0: expected a whole number of at least 1"),
        ("transmil", {"hidden": 12}, "hidden=12: expected a multiple of 8"),
    ],
)
def test_heads_that_there_are_not(name, options, said):
    with pytest.raises(ValueError, match=said):
        head(name, **options)


# --- training


def planted(n_bags=24, d=6, seed=0):
    """Bags in which two of twenty patches tell the class."""
    rng = np.random.default_rng(seed)
    y = np.arange(n_bags) % 2
    bags = rng.normal(size=(n_bags, 20, d)).astype(np.float32)
    bags[:, :2, 0] += np.where(y == 1, 5, -5)[:, None]
    return torch.from_numpy(bags), torch.from_numpy(y)


def learn(name="abmil", n_train=16, n_val=8, seed=0, module=None, **options):
    bags, y = planted()
    module = head(name, n_out=2) if module is None else module
    history = train_bags(
        lambda i: bags[i],
        lambda outputs, i: F.cross_entropy(outputs, y[i]),
        range(n_train),
        range(n_train, n_train + n_val),
        module,
        **{"n_epochs": 8, "lr": 3e-3, "seed": seed, **options},
    )
    return module, history


def test_the_best_epoch_is_kept_and_training_ends_when_it_gets_no_better():
    bags, y = planted()
    module, history = learn(n_epochs=60, lr=3e-2, patience=3)
    best = int(np.argmin([val for _, val in history]))
    assert len(history) == best + 4 < 60
    assert not module.training
    with torch.no_grad():
        own = np.mean([float(F.cross_entropy(module(bags[i])[0], y[i])) for i in range(16, 24)])
    assert own == pytest.approx(history[best][1], rel=1e-5)


def test_without_validation_the_last_epoch_is_kept():
    module, history = learn(n_val=0)
    assert len(history) == 8
    assert all(np.isnan(val) for _, val in history)
    longer, _ = learn(n_val=0, n_epochs=9)
    assert any(not torch.equal(a, b) for a, b in zip(module.parameters(), longer.parameters(), strict=True))


@pytest.mark.parametrize("name", HEADS)
def test_the_same_seed_gives_the_same_head(name):
    state = torch.random.get_rng_state()
    one, again, other = (learn(name, seed=seed, n_epochs=2) for seed in (0, 0, 1))
    assert one[1] == again[1] != other[1]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_accumulated_bags_take_one_step_with_their_mean_loss():
    bags, y = planted()
    module, _ = learn(n_train=3, n_val=0, n_epochs=1, accumulate=3, module=head("mean", 6, 2))
    twin = head("mean", 6, 2)
    optimiser = torch.optim.AdamW(twin.parameters(), lr=3e-3, weight_decay=1e-5)
    torch.stack([F.cross_entropy(twin(bags[i])[0], y[i]) for i in range(3)]).mean().backward()
    optimiser.step()
    for a, b in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_rate_follows_its_schedule(schedule, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a: rates.append(self.param_groups[0]["lr"]) or step(self, *a)
    )
    learn("mean", n_train=4, n_val=0, n_epochs=3, lr=1e-3, schedule=schedule, module=head("mean", 6, 2))
    falling = 1e-3 * 0.5 * (1 + np.cos(np.pi * np.arange(12) / 12))
    np.testing.assert_allclose(rates, falling if schedule == "cosine" else 1e-3, rtol=1e-6)


def test_progress_is_told_of_every_epoch():
    told = []
    learn(n_epochs=3, progress=lambda: told.append(1))
    assert len(told) == 3


def test_attention_finds_the_patches_that_decide():
    module, _ = learn(n_epochs=20)
    bags, _ = planted(seed=1)
    with torch.no_grad():
        found = torch.stack([module(one)[1] for one in bags])
    assert found[:, :2].sum(1).mean() > 0.8


def test_what_cannot_be_trained():
    module = head("abmil", n_out=2)

    def run(train=(0, 1), val=(), value=1.0, **options):
        train_bags(
            lambda i: bag(), lambda outputs, i: outputs.sum() * (value if i else 1), train, val, module, **options
        )

    with pytest.raises(NonFiniteLossError, match=r"bag 1: the loss is nan in epoch 0; lower lr="):
        run(value=np.nan)
    with pytest.raises(NonFiniteLossError, match=r"bag 1: the loss is -?inf"):
        run((0,), (1,), np.inf)
    with pytest.raises(ValueError, match="train is empty"):
        run(())
    with pytest.raises(ValueError, match=r"train and val both have the bags \[1\]"):
        run((0, 1), (1, 2))
    with pytest.raises(ValueError, match="accumulate=0: expected a whole number of at least 1"):
        run(accumulate=0)


# --- folds


def test_folds_share_no_group_and_have_all_classes():
    rng = np.random.default_rng(0)
    for trial in range(20):
        n_groups = int(rng.integers(12, 40))
        groups = np.concatenate([np.arange(n_groups), rng.integers(0, n_groups, 30)])
        of_group = np.where(np.arange(n_groups) < 4, 0, rng.integers(1, 3, n_groups))
        of_group[4:12] = np.repeat([1, 2], 4)
        y = of_group[groups]
        fold = stratified_folds(groups, y, 3, 4, np.random.default_rng(trial))
        assert all(len(set(fold[groups == g])) == 1 for g in range(n_groups))
        assert all(set(y[fold == f]) == {0, 1, 2} for f in range(4)), trial
        np.testing.assert_array_equal(fold, stratified_folds(groups, y, 3, 4, np.random.default_rng(trial)))


def test_groups_of_several_classes_are_dealt_whole():
    groups, y = np.repeat(np.arange(10), 2), np.tile([0, 1], 10)
    fold = stratified_folds(groups, y, 2, 5, np.random.default_rng(0))
    assert np.bincount(fold).tolist() == [4] * 5
    assert groups_per_class(groups, y, 2).tolist() == [10, 10]


def test_an_inner_split_has_all_classes_on_both_sides_or_is_none():
    rng = np.random.default_rng(0)
    groups, y = np.arange(20), np.arange(20) % 2
    val = inner_split(groups, y, 2, 0.2, rng)
    assert val.sum() == 4
    assert set(y[val]) == set(y[~val]) == {0, 1}
    few = inner_split(np.arange(5), np.array([0, 0, 0, 1, 1]), 2, 0.2, rng)
    assert 0 < few.sum() < 5
    rare = inner_split(np.arange(100), (np.arange(100) > 97).astype(int), 2, 0.2, rng)  # 98 + 2
    assert rare.sum() == 21
    assert inner_split(np.arange(4), np.array([0, 0, 0, 1]), 2, 0.2, rng) is None
    assert inner_split(np.zeros(8, int), np.arange(8) % 2, 2, 0.2, rng) is None
