"""Training of SEAL on arrays: what is asked for is what is trained."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.seal_arrays import STILL, assert_close, differing, first_step, net_of, pairs_of, state, train
from scipy.sparse import csr_matrix

from spade.core.errors import NonFiniteLossError
from spade.core.roles import NOT_USED, TRAIN, VAL
from spade.core.seal.config import WEIGHTS
from spade.core.seal.pairs import Pairs
from spade.core.seal.train import _Run
from spade.core.vision.towers import PixelTower

# --- settings do what they say


@pytest.mark.parametrize("size", [1, 4, 5, 100])
def test_micro_batches_change_no_gradient(size):
    rows = np.arange(15)
    whole, gradients = first_step("pixels", rows, {})
    found, own = first_step("pixels", rows, {"micro_batch_size": size})
    assert found == pytest.approx(whole, rel=1e-5)
    assert set(own) == set(gradients)
    for name, value in own.items():
        torch.testing.assert_close(value, gradients[name], rtol=1e-4, atol=1e-6)


def test_micro_batches_train_the_same_weights():
    whole, parts = (state(train("pixels", **STILL, micro_batch_size=size)[0]) for size in (None, 4))
    assert_close(parts, whole)


def test_micro_batches_encode_few_patches_at_a_time(monkeypatch):
    seen = []
    forward = PixelTower.forward
    monkeypatch.setattr(PixelTower, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    train("pixels", micro_batch_size=5)
    assert max(seen) == 5


def test_warm_up_has_a_rate_of_its_own(monkeypatch):
    rates = []
    step = _Run._step

    def note(run, rows, images, stage):
        rates.append((stage, run.optimiser.param_groups[0]["lr"]))
        return step(run, rows, images, stage)

    monkeypatch.setattr(_Run, "_step", note)
    train("features", gene_warmup=1, n_epochs=1, lr=1e-3)
    alike, rates = rates, []
    train("features", gene_warmup=1, n_epochs=1, lr=1e-3, gene_lr=5e-3)
    assert [stage for stage, _ in rates] == [stage for stage, _ in alike]
    for (stage, rate), (_, before) in zip(rates, alike, strict=True):
        assert rate == pytest.approx(before * (5 if stage == "gene" else 1))


@pytest.mark.parametrize("kind", ["features", "pixels"])
def test_warm_up_trains_the_expression_tower_alone(kind, monkeypatch):
    net = net_of(kind)
    before, seen = state(net), {}
    frozen = {name: value.clone() for name, value in net.vision.state_dict().items()}
    monkeypatch.setattr(_Run, "_encode", lambda *_: seen.update(state(net)) or pytest.fail("read images"))
    with pytest.raises(pytest.fail.Exception):
        train(kind, net=net, gene_warmup=2)
    changed = differing(before, seen)
    assert changed
    assert all(name.startswith("gene.") for name in changed)
    assert "gene.decoder.0.weight" in changed
    assert all(torch.equal(value, frozen[name]) for name, value in net.vision.state_dict().items())


def test_the_warm_up_is_told_in_the_history():
    _, record = train(gene_warmup=2)
    rows = [(row["stage"], row["term"], row["epoch"]) for row in record.history]
    terms = ["contrastive", "gene_reconstruction", "image_to_gene", "loss"]
    assert rows == [("gene", term, epoch) for epoch in range(2) for term in ("gene_reconstruction", "loss")] + [
        ("joint", term, epoch) for epoch in range(3) for term in terms
    ]
    assert all(np.isfinite([row["train_loss"], row["val_loss"]]).all() for row in record.history)
    warm = [row["train_loss"] for row in record.history if row["stage"] == "gene" and row["term"] == "loss"]
    assert warm[1] < warm[0]


@pytest.mark.parametrize("off", ["contrastive", "gene_reconstruction", "image_to_gene"])
def test_a_loss_that_is_switched_off_trains_nothing(off):
    before = state(net_of())
    net, record = train(**{off: 0.0}, weight_decay=0.5)
    assert {row["term"] for row in record.history} == {*WEIGHTS[:3], "loss"} - {off}
    unchanged = set(before) - differing(before, state(net))
    parts = {
        "gene_reconstruction": "gene.decoder.",
        "image_to_gene": "image_to_gene.",
        "contrastive": "gene.fc_logvar.",
    }
    assert any(name.startswith(parts[off]) for name in unchanged) == (off != "contrastive")
    for one in ("gene_reconstruction", "image_to_gene"):
        assert all((name in unchanged) == (off == one) for name in before if name.startswith(parts[one]))


def test_a_head_alone_leaves_the_expression_tower_as_it_is():
    before = state(net_of())
    net, _ = train(contrastive=0.0, gene_reconstruction=0.0)
    assert not any(name.startswith("gene.") for name in differing(before, state(net)))


def test_the_loss_is_the_weighted_sum_of_its_terms():
    weights = {"contrastive": 0.5, "gene_reconstruction": 2.0, "image_to_gene": 3.0, "kl": 0.1, "adversary": 0.2}
    _, record = train(**weights)
    for epoch in range(3):
        for column in ("train_loss", "val_loss"):
            found = {row["term"]: row[column] for row in record.history if row["epoch"] == epoch}
            if column == "val_loss":  # the critic does not know sections that it was not trained on
                assert math.isnan(found.pop("adversary"))
            assert found.pop("loss") == pytest.approx(sum(weights[name] * value for name, value in found.items()))


def test_training_lowers_its_loss():
    for kind in ("features", "pixels"):
        _, record = train(kind, n_epochs=15, lr=1e-2 if kind == "pixels" else 1e-3)
        losses = [row["train_loss"] for row in record.history if row["term"] == "loss"]
        assert losses[-1] < 0.9 * losses[0]


# --- validation


def test_the_epoch_of_least_validation_loss_is_kept():
    pairs = pairs_of()
    net, states, validate = net_of(), [], _Run._validate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "_validate", lambda run, stage: states.append(state(run.net)) or validate(run, stage))
        _, record = train(net=net, pairs=pairs, n_epochs=12, lr=3e-2)
    kept = [row["val_loss"] for row in record.history if row["term"] == "loss"]
    assert record.best_epoch == int(np.argmin(kept))
    assert 0 < record.best_epoch < 11  # it is neither the first nor the last
    assert not differing(state(net), states[record.best_epoch])
    assert not net.training


def test_validation_is_the_same_in_every_epoch_and_changes_no_training():
    pairs = pairs_of()
    _, record = train(pairs=pairs, lr=1e-12)
    losses = [row["val_loss"] for row in record.history if row["term"] == "image_to_gene"]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    role = np.where(pairs.role == VAL, NOT_USED, pairs.role)
    _, found = train(pairs=Pairs(pairs.images, pairs.expression, pairs.section, role, pairs.names), lr=1e-12)
    assert found.best_epoch == 2
    assert math.isnan(found.history[0]["val_loss"])
    assert [row["train_loss"] for row in found.history] == [row["train_loss"] for row in record.history]


def test_rows_that_are_not_used_change_nothing():
    pairs = pairs_of()
    net, _ = train(pairs=pairs)
    x, g = pairs.images.copy(), pairs.expression.toarray()
    x[pairs.role == NOT_USED], g[pairs.role == NOT_USED] = np.nan, 1e30
    again, _ = train(pairs=Pairs(x, csr_matrix(g), pairs.section, pairs.role, pairs.names))
    assert not differing(state(net), state(again))


# --- losses that are not numbers


def spoiled(kind, role, row=0):
    pairs = pairs_of()
    chosen = np.flatnonzero((pairs.role == role) & (pairs.section == 1))[row]
    if kind == "images":
        pairs.images[chosen] = np.nan
    else:
        pairs.expression[chosen, 0] = np.inf
    return pairs


@pytest.mark.parametrize("kind", ["images", "expression"])
def test_a_loss_that_is_no_number_names_the_section(kind):
    with pytest.raises(
        NonFiniteLossError, match=r"the loss became nan in step \d, on spots of other, whose .*lr=0\.001"
    ):
        train(pairs=spoiled(kind, TRAIN))


def test_so_does_the_warm_up():
    with pytest.raises(NonFiniteLossError, match=r"the loss became nan in step \d, on spots of other"):
        train(pairs=spoiled("expression", TRAIN), gene_warmup=1)


@pytest.mark.parametrize("kind", ["images", "expression"])
@pytest.mark.parametrize("warmup", [0, 1])
def test_a_validation_loss_that_is_no_number_names_the_section(kind, warmup):
    with pytest.raises(NonFiniteLossError, match=r"the validation loss became nan .*on spots of other"):
        train(pairs=spoiled(kind, VAL), gene_warmup=warmup)


def test_a_step_that_is_too_large_is_an_error():
    with pytest.raises(NonFiniteLossError, match=r"the loss became (nan|inf).*on spots of one, other"):
        train(lr=1e30, n_epochs=20)


# --- the same again


@pytest.mark.parametrize("kind", ["features", "pixels"])
def test_the_same_seed_gives_the_same_weights_and_leaves_torch_alone(kind):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    nets = [net_of(kind, 0.3) for _ in range(3)]
    torch.random.set_rng_state(before)
    for net, seed, n_workers in zip(nets, (0, 0, 1), (0, 2, 0), strict=True):
        train(kind, net=net, seed=seed, n_workers=n_workers, dropout=0.3)
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.rand(3)  # what was drawn before does not matter
        torch.random.set_rng_state(before) if seed else torch.manual_seed(7)
    one, same, other = map(state, nets)
    assert not differing(one, same)
    assert differing(one, other)


def test_draws_do_not_depend_on_torch():
    torch.manual_seed(1)
    one = state(train("pixels", net=net_of("pixels", 0.3), dropout=0.3)[0])
    net = net_of("pixels", 0.3)
    torch.manual_seed(2)
    assert not differing(one, state(train("pixels", net=net, dropout=0.3)[0]))


def test_half_precision_trains_nearly_the_same():
    _, exact = train("pixels", **STILL)
    net, half = train("pixels", **STILL, precision="bf16")
    assert all(value.dtype == torch.float32 for value in state(net).values())
    losses = [[row["train_loss"] for row in record.history] for record in (exact, half)]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(*losses, rtol=0.05)
