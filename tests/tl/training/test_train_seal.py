"""Fine-tuning of an encoder through the front door: on features and on pixels, and what it learns."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import fresh
from helpers.seal import FAST, PX, UM, cohort, pictures, seal
from helpers.sections import assert_same, featured, warns_here
from spatialdata import read_zarr

import spade as sp
from spade.core.vision.lora import adapters
from spade.models import SealModel
from spade.models._towers import base_state

LOSSES = ["contrastive", "gene_reconstruction", "image_to_gene", "loss"]


# --- what comes out


def test_a_head_on_features(headed):
    assert repr(headed) == "SealModel: 8 features (X_f) of an unnamed encoder, 20 genes -> 8"
    assert (headed.reads_pixels, headed.dim, headed.n_genes, headed.n_features) == (False, 8, 20, 8)
    assert headed.history.columns.tolist() == ["stage", "term", "epoch", "train_loss", "val_loss"]
    assert headed.history["term"].tolist() == LOSSES * 3
    assert headed.history["epoch"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert set(headed.history["stage"]) == {"joint"}
    assert headed.history["train_loss"].notna().all()
    assert headed.history["val_loss"].isna().all()
    facts = headed.facts
    assert (facts["samples"], facts["training_spots"], facts["validation_spots"], facts["best_epoch"]) == (
        "a, b",
        72,
        0,
        2,
    )
    samples = cohort()
    x = samples[0]["table"].obsm["X_f"]
    g = np.log1p(1e4 * (c := samples[0]["table"].X.toarray()) / c.sum(1, keepdims=True))[:, :20]
    np.testing.assert_allclose(headed.encode_expression(g.astype(np.float32)).shape, (36, 8))
    assert headed.predict_expression(x).shape == (36, 20)
    assert headed.encode_image(x[:0]).shape == headed.encode_expression(g[:0]).shape == (0, 8)
    with pytest.raises(ValueError, match="this model reads features, so it has no encoder to return"):
        headed.as_timm()


def test_the_input_of_the_expression_tower_is_the_log_normalised_panel(headed):
    both = np.concatenate([sample["table"].X.toarray() for sample in cohort()])
    g = np.log1p(1e4 * both / both.sum(1, keepdims=True))[:, :20]
    np.testing.assert_allclose(headed.net.mean, g.mean(0), rtol=1e-5)
    np.testing.assert_allclose(headed.net.deviation, g.std(0), rtol=1e-4)
    x = np.concatenate([sample["table"].obsm["X_f"] for sample in cohort()])
    np.testing.assert_allclose(headed.net.vision.mean, x.mean(0), rtol=1e-4, atol=1e-5)


def test_a_tuned_encoder(tuned):
    assert repr(tuned) == f"SealModel: patches of {PX} px of test_vit, 20 genes -> 64"
    assert (tuned.reads_pixels, tuned.dim, tuned.n_genes, tuned.input_px) == (True, 64, 20, PX)
    assert (tuned.config.encoder, tuned.config.patch_um, tuned.config.patch_px) == ("test_vit", UM, PX)
    assert (tuned.name, tuned.mpp) == ("test_vit_seal", UM / PX)
    assert tuned.facts["training_spots"] == 24
    trained = sum(value.numel() for _, value in adapters(tuned.net.vision))
    assert (
        tuned.facts["trained_weights_of_the_encoder"] == trained == 8 * 16 * 64 - 8 * 2 * 64
    )  # its hidden width is 192
    assert tuned.history["term"].tolist() == LOSSES * 3


def test_training_only_reads_its_samples(tune):
    for samples, run in ((cohort(), seal), (pictures(), tune)):
        before = [fresh(sample) for sample in samples]
        run(samples)
        for one, other in zip(samples, before, strict=True):
            assert_same(one, other)


def test_the_encoder_stays_bit_for_bit_the_same(tuned, network):
    found = base_state(tuned.net.vision.model.state_dict())
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in found.items())
    assert set(found) == {name for name in network.state_dict() if not name.startswith("head.")}
    assert all(value.abs().max() > 0 for name, value in adapters(tuned.net.vision) if "lora_B." in name)


def test_the_same_seed_gives_the_same_model_and_leaves_random_numbers_alone(tune):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    for run, make in ((seal, cohort), (tune, pictures)):
        one, same, drawn, other = (run(make(), rng=rng).id for rng in (1, 1, np.random.default_rng(1), 2))
        assert one == same
        assert len({one, drawn, other}) == 3
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_training_on_the_cpu_leaves_the_seeds_of_gpus_alone(tune, monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("seeded"))
    with warns_here("random weights"):
        tune(pictures(), weights="random", n_epochs=1)


@pytest.mark.slow
def test_samples_may_be_paths(tmp_path, headed, tuned, tune):
    for model, make, run in ((headed, cohort, seal), (tuned, pictures, tune)):
        paths = []
        for sample in make():
            paths.append(tmp_path / f"{sample.attrs['spade']['sample']}_{model.dim}.zarr")
            sp.io.write(sample, paths[-1])
        again = run(paths, n_epochs=3, **({"lr": 1e-2} if model is tuned else {}))
        assert again.id == model.id
        sp.tl.embed(paths, again)
        in_memory = make()
        sp.tl.embed(in_memory, model)
        for path, sample in zip(paths, in_memory, strict=True):
            for key in ("X_seal", "X_seal_image", "X_seal_expression"):
                np.testing.assert_array_equal(read_zarr(path)["table"].obsm[key], sample["table"].obsm[key])


def test_random_weights_are_said_to_be_random(tune):
    with warns_here("encoder='test_vit' has random weights"):
        model = tune(pictures(), weights="random")
    assert model.config.weights == "random"


def test_a_cnn(tmp_path):
    with warns_here("random weights"):
        model = sp.tl.train_seal(pictures(), encoder="test_resnet", weights="random", **FAST)
    samples = pictures()
    sp.tl.embed(samples, model)
    assert samples[0]["table"].obsm["X_seal"].shape == (12, model.dim)
    model.save(tmp_path / "merged", merge=True)
    assert SealModel.load(tmp_path / "merged").id == model.id
    assert "| trained | last stage: rank 8, alpha 8 |" in (tmp_path / "merged" / "README.md").read_text()
    module = model.as_timm()
    assert module(torch.zeros(2, 3, model.input_px, model.input_px)).shape == (2, model.dim)


@pytest.mark.parametrize(
    "options",
    [
        {"gene_warmup": 1, "kl": 0.1},
        {"gene_warmup": 1, "gene_lr": 1e-3},
        {"adversary": 0.1, "balance_sections": True, "negatives": "section"},
        {"contrastive": 0},
        {"gene_reconstruction": 0},
        {"image_to_gene": 0},
        {"head": "linear"},
        {"precision": "bf16"},
        {"batch_size": 10_000},
    ],
)
def test_options_that_are_saved_with_the_model(options, tmp_path):
    model = seal(cohort(), **options)
    model.save(tmp_path / "model")
    again = SealModel.load(tmp_path / "model")
    assert again.id == model.id != seal(cohort()).id
    assert {name: getattr(again.config, name) for name in options} == options
    sp.tl.embed(cohort(), again)
    if options.get("image_to_gene") == 0:
        with pytest.raises(ValueError, match="image_to_gene=0: this model was trained without a head"):
            again.predict_expression(np.zeros((1, 8)))


def test_expression_as_it_is():
    samples = cohort()
    for sample in samples:
        sample["table"].layers["log"] = np.log1p(sample["table"].X.toarray()).astype(np.float64)
    model = seal(samples, layer="log", normalized=True)
    assert (model.config.layer, model.config.normalized) == ("log", True)
    mean = np.concatenate([sample["table"].layers["log"] for sample in samples])[:, :20].mean(0)
    np.testing.assert_allclose(model.expression_mean, mean, rtol=1e-5)
    sp.tl.embed(samples, model)


def learnable(n=60, seed=0):
    """Features from which expression can be told."""
    samples = []
    for name in "ab":
        sdata = featured(n, name=name, seed=seed)
        rng = np.random.default_rng(seed + ord(name))
        hidden = rng.normal(size=(n, 3))
        sdata["table"].obsm["X_f"] = (hidden @ np.random.default_rng(1).normal(size=(3, 8))).astype(np.float32)
        counts = rng.poisson(np.exp(2 + hidden @ np.random.default_rng(0).normal(size=(3, 60)) * 0.6))
        sdata["table"].X = type(sdata["table"].X)(counts.astype(np.float32))
        samples.append(sdata)
    return samples


def test_pairs_are_learned_and_not_without_them():
    samples = learnable()
    settings = {"n_epochs": 60, "lr": 3e-3, "dim": 16, "batch_size": 60, "weight_decay": 0.0}
    real, control = (seal(samples, shuffle_pairs=shuffled, **settings) for shuffled in (False, True))
    assert control.config.shuffle_pairs
    metrics = sp.tl.retrieval_metrics(samples, real, control=control)
    assert metrics.filter(like="control").notna().all().all()
    ranks = {
        kind: sp.tl.retrieval_metrics(samples, model)["median_rank"].iloc[0]
        for kind, model in (("real", real), ("control", control))
    }
    assert ranks["real"] < 0.5 * ranks["control"]


def test_what_was_learned_is_the_same_on_both_sides():
    samples = learnable()
    model = seal(samples, n_epochs=60, lr=1e-2, weight_decay=0.0, batch_size=60)
    x = samples[0]["table"].obsm["X_f"]
    counts = samples[0]["table"].X.toarray()
    g = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))[:, :20]
    predicted = model.predict_expression(x)
    varying = [i for i in range(20) if np.ptp(predicted[:, i])]
    assert len(varying) > 10
    assert np.median([np.corrcoef(predicted[:, i], g[:, i])[0, 1] for i in varying]) > 0.6


def test_curves_are_marked_where_the_model_was_kept():
    rows = [
        ("gene", "loss", 0, 1.0, 0.1),
        *(("joint", "contrastive", epoch, 1.0, value) for epoch, value in enumerate((1.0, 3.0, 2.0))),
        *(("joint", "loss", epoch, 1.0, value) for epoch, value in enumerate((5.0, 4.0, 6.0))),
    ]
    ax = sp.pl.training(pd.DataFrame(rows, columns=["stage", "term", "epoch", "train_loss", "val_loss"]))
    marks = {line.get_label(): line.get_xydata().tolist() for line in ax.lines if "best epoch" in line.get_label()}
    assert list(marks.values()) == [[[1.0, 3.0]], [[1.0, 4.0]]]


def test_on_toy_samples(cohort, tmp_path):
    panel = sp.pp.select_genes(cohort, n_top_genes=30)
    model = sp.tl.train_seal(cohort, on_features="X_texture", genes=panel, dim=16, n_epochs=15, batch_size=40, lr=1e-3)
    losses = model.history.loc[model.history["term"] == "loss", "train_loss"].to_numpy()
    assert losses[-1] < 0.8 * losses[0]
    assert (model.config.encoder, model.config.use_rep) == ("texture", "X_texture")
    model.save(tmp_path / "model")
    again = SealModel.load(tmp_path / "model")
    sp.tl.embed(cohort, again)
    assert cohort[0]["table"].obsm["X_seal"].shape == (80, 16)
    shutil.rmtree(tmp_path / "model")
