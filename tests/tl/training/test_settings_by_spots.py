"""What is left None follows from the number of training spots, and the model says what it became."""

from __future__ import annotations

import pytest
from helpers.sections import GENES, cohort, train

import spade as sp

BY_SPOTS = ("n_experts", "n_prototypes", "batch_size", "n_epochs", "lr", "warm_start")
#: Few epochs, so that nothing takes long; the rest is chosen.
CHOSEN = {**dict.fromkeys(BY_SPOTS), "n_epochs": 2}


def values(model, names=BY_SPOTS):
    return {name: getattr(model.config, name) for name in names}


@pytest.fixture(scope="module")
def samples():
    samples = cohort()
    for sample in samples:  # 12 of 36 spots train
        sample["table"].obs["fold"] = ["train"] * 12 + ["test"] * 24
    return samples


def test_training_spots_decide_and_the_log_says_so(samples, caplog):
    with caplog.at_level("INFO", logger="spade"):
        model = train(samples, split_key="fold", **CHOSEN)
    n_spots = model.facts["training_spots"]
    assert values(model) == {
        "n_experts": 1, "n_prototypes": n_spots // 2, "batch_size": 8, "n_epochs": 2, "lr": 1e-3, "warm_start": 0,
    }  # fmt: skip
    assert (
        f"by the number of training spots ({n_spots}): n_experts=1, n_prototypes={n_spots // 2}, batch_size=8, "
        "lr=0.001, warm_start=0" in caplog.text
    )
    by_hand = train(samples, split_key="fold", **values(model))
    assert by_hand.id == model.id


def test_what_is_given_stays_and_a_routing_decides_its_experts(samples):
    assert values(train(samples, **CHOSEN | {"n_experts": 3, "lr": 0.5}))["n_experts"] == 3
    routing = sp.tl.cluster_experts(cohort(), use_rep="X_f")
    assert routing.n_experts == 1
    assert routing.n_prototypes == 16
    routing = sp.tl.cluster_experts(cohort(), use_rep="X_f", n_experts=2, n_prototypes=5)
    model = train(samples, routing=routing, **CHOSEN)
    assert values(model, ("n_experts", "n_prototypes", "warm_start")) == {
        "n_experts": 2, "n_prototypes": 5, "warm_start": 1,
    }  # fmt: skip
    going_on = train(samples, init=model, **CHOSEN)
    assert values(going_on, ("n_experts", "warm_start")) == {"n_experts": 2, "warm_start": 0}


def test_the_preset_is_the_paper_in_one_word_and_settings_override_it(samples):
    model = train(samples, preset="paper", **CHOSEN)
    paper = {name: getattr(sp.models.SpadeConfig(), name) for name in BY_SPOTS}
    assert paper == dict(zip(BY_SPOTS, (16, 16, 128, 100, 1e-4, 0), strict=True))
    assert values(model) == paper | {"n_epochs": 2}
    options = {"on_features": "X_f", "genes": GENES[:20], "dim": 8, "hidden": 16, "n_epochs": 1}
    seal = sp.tl.train_seal(samples, preset="paper", **options)
    assert (seal.config.batch_size, seal.config.lr) == (384, 1e-4)
    seal = sp.tl.train_seal(samples, split_key="fold", **options)
    assert (seal.config.batch_size, seal.config.lr) == (8, 1e-3)
    for call in (lambda: train(samples, preset="fast"), lambda: sp.tl.train_seal(samples, preset="fast", **options)):
        with pytest.raises(ValueError, match=r"preset='fast': expected one of 'paper'"):
            call()


def test_a_folder_belongs_to_the_resolved_settings(samples, tmp_path):
    model = train(samples, checkpoint_dir=tmp_path, **CHOSEN)
    assert train(samples, checkpoint_dir=tmp_path, **values(model)).id == model.id
    with pytest.raises(ValueError, match=r"belongs to another training \(.*batch_size: \d+ there, 128 now"):
        train(samples, checkpoint_dir=tmp_path, preset="paper", **CHOSEN)
