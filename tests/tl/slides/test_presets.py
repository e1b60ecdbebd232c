"""The authors' settings of slide heads by name, and Cox models with attention."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.slides import slide

import spade as sp
from spade.tl._slides import heads
from spade.tl._slides.presets import settings_with
from spade.tl._slides.risks import fit
from spade.tl._slides.risks.fit import SurvivalConfig
from spade.tl._slides.task.settings import SlideConfig

PAPER = {"hidden": (512, 512, 384), "lr": 1e-5, "schedule": "cosine", "scaling": "none", "class_weights": False}


def test_a_preset_gives_what_the_authors_state_and_nothing_else():
    config = settings_with(SlideConfig, "paper", {})
    assert {name: getattr(config, name) for name in PAPER} == PAPER
    plain = SlideConfig()
    for name in ("dropout", "n_epochs", "weight_decay", "patience", "inner_val"):
        assert getattr(config, name) == getattr(plain, name)
    survival = settings_with(SurvivalConfig, "paper", {"lr": None, "hidden": 64})
    assert (survival.hidden, survival.lr, survival.schedule) == (64, 1e-5, "cosine")
    assert settings_with(SlideConfig, None, {"lr": None, "scaling": None}) == plain


@pytest.fixture(scope="module")
def slides():
    samples = [slide(i, n=12) for i in range(8)]
    for i, sample in enumerate(samples):
        obs = sample["table"].obs
        obs["time"], obs["event"] = float(1 + (7 * i) % 8), i % 4 > 0
    return samples


def trained(module, name, monkeypatch):
    """Heads and settings that a training is given."""
    found = []
    train = getattr(module, name)

    def note(*args, **options):
        found.append((next(a for a in args if hasattr(a, "state_dict")), options))
        return train(*args, **options)

    monkeypatch.setattr(module, name, note)
    return found


CALLS = {
    "slide_task": {"label_key": "kind", "n_folds": 2},
    "attention": {"label_key": "kind"},
    "survival": {"time_key": "time", "event_key": "event", "n_folds": 2, "n_bins": 2},
}


@pytest.mark.parametrize("function", CALLS)
def test_heads_are_of_the_sizes_and_rates_of_the_preset(function, slides, monkeypatch):
    found = trained(fit if function == "survival" else heads, "train_bags", monkeypatch)
    options = {**CALLS[function], "use_rep": "X_f", "head": "abmil", "preset": "paper", "n_epochs": 1, "device": "cpu"}
    call = getattr(sp.tl, function)
    call(slides, **options)
    shapes = {name: tuple(value.shape) for name, value in found[0][0].state_dict().items() if "weight" in name}
    assert shapes == {
        "embed.weight": (512, 8), "deeper.0.weight": (512, 512), "gate.weight": (768, 512), "score.weight": (1, 384),
        "out.weight": (2, 512),
    }  # fmt: skip
    assert (found[0][1]["lr"], found[0][1]["schedule"]) == (1e-5, "cosine")
    found.clear()
    call(slides, **options, lr=1e-3, hidden=8, schedule="constant")
    assert found[0][0].embed.out_features == 8
    assert (found[0][1]["lr"], found[0][1]["schedule"]) == (1e-3, "constant")


def test_transmil_takes_the_first_width(slides, monkeypatch):
    found = trained(heads, "train_bags", monkeypatch)
    sp.tl.attention(slides, label_key="kind", use_rep="X_f", head="transmil", hidden=(16, 5), n_epochs=1, device="cpu")
    assert found[0][0].embed.out_features == 16


def survivors(n=44, n_slides=1, seed=0):
    """Slides in which the share of patches of a second kind is the risk."""
    rng = np.random.default_rng(seed)
    share = rng.random(n)
    died, left = rng.exponential(np.exp(-6 * share)), rng.exponential(0.6, n)
    time, event = np.round(100 * np.minimum(died, left), 3) + 0.01, died <= left
    samples = []
    for i in range(n * n_slides):
        sample = slide(i, n=16, patient=f"p{i // n_slides}")
        x = rng.normal(size=(16, 8)).astype(np.float32)
        x[:, 0] += np.where(rng.random(16) < share[i // n_slides], 4, 0)
        table = sample["table"]
        table.obsm["X_f"] = x
        table.obs["time"], table.obs["event"] = time[i // n_slides], event[i // n_slides]
        samples.append(sample)
    return samples


@pytest.mark.parametrize("head", ["abmil", "transmil"])
def test_cox_with_attention_orders_unseen_patients(head):
    options = {"time_key": "time", "event_key": "event", "use_rep": "X_f", "loss": "cox", "n_folds": 2}
    fast = {"hidden": 16, "lr": 5e-3, "n_epochs": 12, "batch_size": 11, "device": "cpu"}
    found = sp.tl.survival(survivors(), head=head, **options, **fast)
    assert sp.tl.survival_summary(found, n_boot=1)["c_index"].item() > 0.7


def test_cox_with_attention_reads_all_slides_of_a_patient(monkeypatch):
    samples = survivors(12, 2)
    found = trained(fit, "train_together", monkeypatch)
    table = sp.tl.survival(
        samples, time_key="time", event_key="event", use_rep="X_f", loss="cox", head="abmil", n_folds=2, hidden=8,
        n_epochs=2, batch_size=4, device="cpu", preset="paper",
    )  # fmt: skip
    assert (table["n_slides"] == 2).all()
    assert np.isfinite(table["risk"]).all()
    settings = found[0][1]["settings"]
    assert (settings.lr, settings.schedule, found[0][0].out.out_features) == (1e-5, "cosine", 1)
