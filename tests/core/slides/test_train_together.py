"""Losses that compare bags: their gradient, the batches that are dealt, and what is learnt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.survival import slow_cox

from spade.core.errors import NonFiniteLossError
from spade.core.rng import torch_stream
from spade.core.slides.epochs import EpochSettings
from spade.core.slides.heads import make_head
from spade.core.slides.survival import concordance
from spade.core.slides.survival_losses import cox_loss
from spade.core.slides.train_together import deal_with_events, train_together

TIME, EVENT = torch.tensor([5.0, 2.0, 2.0, 9.0, 4.0]), torch.tensor([True, True, True, False, False])


def bags(n=5, size=6, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, size, 4)).astype(np.float32))


def loss(outputs, numbers):
    return cox_loss(outputs[:, 0], TIME[numbers], EVENT[numbers], "breslow")


def one_step(name, monkeypatch, x, dropout=0.0):
    """Gradients of the first step over all bags as one batch, and the loss."""
    module = make_head(name, 4, 1, hidden=8, dropout=dropout, generator=torch_stream(0, "test"))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    seen = {}

    def note(self, *args):
        seen.update({name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None})

    monkeypatch.setattr(torch.optim.AdamW, "step", note)
    settings = EpochSettings(n_epochs=1, lr=1e-3)
    ((value, _),) = train_together(
        lambda i: x[i], loss, lambda rng: [list(range(len(x)))], (), module, settings=settings
    )
    return module, before, seen, value


def test_the_gradient_is_the_closed_form(monkeypatch):
    x = bags()
    module, _, seen, value = one_step("mean", monkeypatch, x)
    means, weight = x.double().mean(1).numpy(), module.out.weight.detach().double().numpy()[0]
    risk, time, event = means @ weight, TIME.numpy(), EVENT.numpy()
    slope = np.zeros(4)
    for i in np.flatnonzero(event):  # of log Σ exp(r) over those at risk, minus the event's own
        at_risk = time >= time[i]
        share = np.exp(risk[at_risk]) / np.exp(risk[at_risk]).sum()
        slope += (share @ means[at_risk] - means[i]) / event.sum()
    np.testing.assert_allclose(seen["out.weight"][0], slope, atol=1e-6)
    assert value == pytest.approx(slow_cox(risk, time, event, "breslow"), rel=1e-5)


@pytest.mark.parametrize("name", ["abmil", "transmil"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_reading_twice_gives_the_gradient_of_all_bags_at_once(name, dropout, monkeypatch):
    x = bags()
    module, before, seen, value = one_step(name, monkeypatch, x, dropout)
    twin = make_head(name, 4, 1, hidden=8, dropout=dropout, generator=torch_stream(0, "test"))
    twin.load_state_dict(before)
    stream = torch_stream(0, "dropout of bags", 0, "cpu")
    for part in twin.modules():
        if hasattr(part, "generator"):
            part.generator = stream
    whole = loss(torch.stack([twin.train()(bag)[0] for bag in x]), list(range(5)))
    whole.backward()
    assert value == pytest.approx(float(whole.detach()), rel=1e-6)
    for key, parameter in twin.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(seen[key], parameter.grad, rtol=1e-5, atol=1e-7)


def test_batches_hold_whole_patients_and_every_one_an_event():
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(30), rng.integers(1, 4, 30))
    event = (np.arange(30) % 5 == 0)[patient]
    for size, n_batches in ((8, 4), (30, 1), (100, 1), (2, 6)):
        dealt = deal_with_events(patient, event, size, rng)
        assert len(dealt) == n_batches
        assert sorted(i for batch in dealt for i in batch) == list(range(len(patient)))
        assert all(event[batch].any() for batch in dealt)
        sets = [set(patient[batch]) for batch in dealt]
        assert sum(map(len, sets)) == len(set().union(*sets)) == 30
    assert deal_with_events(patient, event, 8, rng) != deal_with_events(patient, event, 8, rng)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_order_of_risks_is_learnt(schedule):
    rng = np.random.default_rng(1)
    level = rng.random(60)
    x = rng.normal(size=(60, 12, 4)).astype(np.float32)
    x[..., 0] += 3 * (rng.random((60, 12)) < level[:, None])
    time = rng.exponential(np.exp(-4 * level))
    event = rng.random(60) < 0.8
    module = make_head("abmil", 4, 1, hidden=(16, 8), dropout=0.1, generator=torch_stream(0, "test"))
    history = train_together(
        lambda i: torch.from_numpy(x[i]),
        lambda outputs, i: cox_loss(outputs[:, 0], torch.from_numpy(time[i]), torch.from_numpy(event[i]), "breslow"),
        lambda rng: deal_with_events(np.arange(40), event[:40], 10, rng),
        (),
        module,
        settings=EpochSettings(n_epochs=15, lr=1e-2, schedule=schedule),
    )
    assert history[-1][0] < history[0][0]
    with torch.no_grad():
        risk = [float(module(torch.from_numpy(bag))[0]) for bag in x[40:]]
    assert concordance(time[40:], event[40:], risk) > 0.7


def test_what_cannot_be_trained():
    x, settings = bags(), EpochSettings(n_epochs=1, lr=1e-3)
    module = make_head("abmil", 4, 1, hidden=8, generator=torch_stream(0, "test"))

    def run(val=(), batches=((0, 1),), worth=1.0):
        train_together(
            lambda i: x[i], lambda outputs, _: outputs.sum() * worth, lambda rng: list(map(list, batches)), val, module,
            settings=settings,
        )  # fmt: skip

    with pytest.raises(NonFiniteLossError, match=r"the loss is nan in epoch 0; lower lr=0\.001"):
        run(worth=float("nan"))
    with pytest.raises(ValueError, match=r"train and val both have the bags \[1\]"):
        run(val=(1,))
    with pytest.raises(ValueError, match="train is empty"):
        run(batches=())
