"""Fine-tuning of an encoder through the front door: on features and on pixels, saved, loaded and used."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from _tiny import (
    GENES,
    circles,
    empty_rows,
    featured,
    no_warning,
    said_of,
    spoil,
    square_lattice,
    tiny,
    train,
    warns_here,
)
from safetensors.torch import load_file, save_file
from spatialdata import read_zarr

import spade as sp
from spade.core.config import NonFiniteLossError
from spade.core.lora import adapters
from spade.models import SealModel

PANEL = GENES[:20]
FAST = {"genes": PANEL, "n_epochs": 2, "batch_size": 16, "lr": 1e-3}
PX, UM = 160, 60.0
LOSSES = ["contrastive", "gene_reconstruction", "image_to_gene", "loss"]


def cohort():
    return [featured(name="a"), featured(name="b", seed=1)]


def seal(samples, **options):
    return sp.tl.train_seal(samples, **{"on_features": "X_f", "dim": 8, "hidden": 16, **FAST, **options})


def pictured(name="a", seed=0, n=12, size_um=UM):
    sdata = tiny(n, name=name, seed=seed)
    sp.pp.patches(sdata, size_um=size_um, size_px=64)
    return sdata


def pictures():
    return [pictured(), pictured("b", 1)]


@pytest.fixture(scope="module")
def network():
    import timm

    torch.manual_seed(5)
    return timm.create_model("test_vit", num_classes=11).eval()


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def tune(weights):
    def tune(samples, **options):
        return sp.tl.train_seal(
            samples, **{"encoder": "test_vit", "weights": weights, **FAST, "batch_size": 8, **options}
        )

    return tune


@pytest.fixture(scope="module")
def tuned(tune):
    return tune(pictures(), n_epochs=3, lr=1e-2)


@pytest.fixture(scope="module")
def headed():
    return seal(cohort(), n_epochs=3)


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
    with pytest.raises(ValueError, match="this model reads features, so there is no encoder to hand out"):
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


def test_training_only_reads_its_samples():
    for samples, run in ((cohort(), seal),):
        before = [(dict(s["table"].uns), sorted(s["table"].obsm), list(s["table"].obs)) for s in samples]
        run(samples)
        assert before == [(dict(s["table"].uns), sorted(s["table"].obsm), list(s["table"].obs)) for s in samples]


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


# --- saved and loaded


def outputs(model, samples):
    table = samples[0]["table"]
    images = (
        table.obsm["X_f"]
        if not model.reads_pixels
        else np.random.default_rng(0).integers(0, 256, (3, PX, PX, 3), np.uint8)
    )
    g = np.log1p(table.X.toarray()[:, :20])
    return [model.encode_image(images), model.predict_expression(images), model.encode_expression(g)]


def test_a_head_is_saved_and_loaded(headed, tmp_path):
    headed.save(tmp_path / "model")
    again = SealModel.load(tmp_path / "model")
    assert again.id == headed.id
    assert (again.config, again.genes, again.facts) == (headed.config, headed.genes, headed.facts)
    pd.testing.assert_frame_equal(again.history, headed.history)
    for one, other in zip(outputs(headed, cohort()), outputs(again, cohort()), strict=True):
        np.testing.assert_array_equal(one, other)
    sp.pl.training(again)
    headed.save(tmp_path / "model")  # in place of what is there
    card = (tmp_path / "model" / "README.md").read_text()
    assert "SealModel.load" in card
    assert "| trained | a head (mlp) on frozen features |" in card


@pytest.mark.parametrize("merge", [False, True])
def test_a_tuned_encoder_is_saved_and_loaded(tuned, merge, tmp_path, weights):
    tuned.save(tmp_path / "model", merge=merge)
    with no_warning():
        again = SealModel.load(tmp_path / "model", weights=None if merge else weights)
    assert again.id == tuned.id
    assert (again.config, again.genes, again.input_px, again.spec) == (tuned.config, tuned.genes, PX, tuned.spec)
    pd.testing.assert_frame_equal(again.history, tuned.history)
    for one, other in zip(outputs(tuned, pictures()), outputs(again, pictures()), strict=True):
        np.testing.assert_array_equal(one, other)
    arrays = load_file(tmp_path / "model" / "model.safetensors")
    base = {name.removeprefix("base.") for name in arrays if name.startswith("base.")}
    assert base == ({name for name in load_file(weights) if not name.startswith("head.")} if merge else set())
    if merge:  # what is loaded can be saved without
        again.save(tmp_path / "small")
        assert SealModel.load(tmp_path / "small", weights=weights).id == tuned.id


def test_random_weights_are_made_anew_from_the_seed(tune, tmp_path):
    with pytest.warns(UserWarning, match="random weights"):
        model = tune(pictures(), weights="random", rng=4)
    model.save(tmp_path / "model")
    with warns_here("random weights"):
        again = SealModel.load(tmp_path / "model")
    for one, other in zip(outputs(model, pictures()), outputs(again, pictures()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_weights_than_those_it_was_tuned_from_are_refused(tuned, tmp_path, network):
    tuned.save(tmp_path / "model")
    state = {name: value + 0.01 for name, value in network.state_dict().items()}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(
        ValueError,
        match=r"encoder 'test_vit' has id \w+, but the model was tuned from \w+\. Pass the file of these weights",
    ):
        SealModel.load(tmp_path / "model", weights=tmp_path / "other.safetensors")


def edit(folder, change):
    description = json.loads((folder / "config.json").read_text())
    change(description)
    (folder / "config.json").write_text(json.dumps(description))


def drop(folder, name):
    arrays = load_file(folder / "model.safetensors")
    del arrays[name]
    save_file(arrays, folder / "model.safetensors")


def add(folder, name):
    save_file(load_file(folder / "model.safetensors") | {name: torch.zeros(1)}, folder / "model.safetensors")


def swap(folder, name):
    arrays = load_file(folder / "model.safetensors")
    save_file(arrays | {name: arrays[name] + 1}, folder / "model.safetensors")


@pytest.mark.parametrize("kind", ["headed", "tuned"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda f: edit(f, lambda d: d["config"].update(temperature=0.1)),
            r"cannot be read as a model .* have id \w+, but",
        ),
        (lambda f: edit(f, lambda d: d["config"].update(rank=0)), r"cannot be read as a model .*rank=0"),
        (
            lambda f: edit(f, lambda d: d["config"].pop("lr")),
            r"the settings \['lr'\] in config.json are unknown or missing",
        ),
        (lambda f: edit(f, lambda d: d["config"].update(new=1)), r"the settings \['new'\] in config.json are unknown"),
        (lambda f: edit(f, lambda d: d.update(dim=3)), "cannot be read as a model"),
        (lambda f: edit(f, lambda d: d.update(dim="wide")), "cannot be read as a model"),
        (lambda f: edit(f, lambda d: d.update(history={})), "cannot be read as a model"),
        (lambda f: edit(f, lambda d: d.pop("facts")), r"lacks \['facts'\]; was it edited"),
        (lambda f: edit(f, lambda d: d.update(id="0")), r"have id \w+, but config.json says 0"),
        (lambda f: drop(f, "gene.fc_mu.weight"), r"cannot be read as a model .*missing \['gene.fc_mu.weight'\]"),
        (lambda f: drop(f, "mean"), "cannot be read as a model .*mean"),
        (lambda f: add(f, "new"), r"cannot be read as a model .*1 too many \['new'\]"),
        (
            lambda f: add(f, "base.new"),
            r"cannot be read as a model .*\['new'\], but config.json says that they are not",
        ),
        (lambda f: swap(f, "deviation"), r"have id \w+, but"),
        (lambda f: (f / "genes.json").unlink(), r"genes.json is missing"),
        (lambda f: (f / "model.safetensors").unlink(), r"model.safetensors is missing"),
        (lambda f: (f / "config.json").write_text("{"), r"not valid JSON"),
    ],
)
def test_folders_that_were_changed_are_refused(kind, damage, said, request, tmp_path, weights):
    request.getfixturevalue(kind).save(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        SealModel.load(tmp_path / "model", weights=weights if kind == "tuned" else None)


@pytest.mark.parametrize("change", [drop, swap])
def test_merged_weights_are_looked_at(change, tuned, tmp_path):
    tuned.save(tmp_path / "model", merge=True)
    change(tmp_path / "model", "base.norm.weight")
    with pytest.raises(ValueError, match=r"weights.*test_vit"):
        SealModel.load(tmp_path / "model")


def test_folders_of_the_other_kind_of_model_are_told_apart(headed, tmp_path):
    train(cohort()).save(tmp_path / "spade")
    headed.save(tmp_path / "seal")
    with pytest.raises(ValueError, match=r"describes model 'SpadeModel'.*sp\.models\.SpadeModel\.load reads it"):
        SealModel.load(tmp_path / "spade")
    with pytest.raises(ValueError, match=r"describes model 'SealModel'.*sp\.models\.SealModel\.load reads that"):
        sp.models.SpadeModel.load(tmp_path / "seal")
    with pytest.raises(FileExistsError, match="exists and is no model"):
        headed.save(tmp_path / "spade")


def test_a_plain_timm_module_is_handed_out(tuned, network):
    module = tuned.as_timm()
    assert list(module.state_dict()) == [name for name in network.state_dict() if not name.startswith("head.")]
    assert not module.training
    changed = {n for n, value in module.state_dict().items() if not torch.equal(value, network.state_dict()[n])}
    last = len(network.blocks) - 1
    assert changed == {f"blocks.{last}.{n}.weight" for n in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    patches = np.random.default_rng(0).integers(0, 256, (3, PX, PX, 3), np.uint8)
    x = torch.from_numpy(patches).permute(0, 3, 1, 2) / 255
    config = network.pretrained_cfg
    x = (x - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(config["std"]).view(3, 1, 1)
    with torch.no_grad():
        np.testing.assert_allclose(module(x).numpy(), tuned.encode_image(patches), rtol=1e-4, atol=1e-4)
    assert len(list(adapters(tuned.net.vision))) == 8  # the model itself is as it was


# --- embeddings


def test_a_tuned_encoder_is_an_encoder(tuned):
    samples = pictures()
    sp.pp.encode_patches(samples, encoder=tuned)
    sp.tl.embed(samples, tuned)
    for sample in samples:
        obsm, uns = sample["table"].obsm, sample["table"].uns["spade"]
        assert sorted(obsm) == ["X_seal", "X_seal_expression", "X_seal_image", "X_test_vit_seal"]
        assert {values.dtype for values in obsm.values()} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(obsm["X_seal_image"], obsm["X_test_vit_seal"])
        assert uns["X_seal_image"]["encoder_id"] == uns["X_test_vit_seal"]["encoder_id"] == tuned.id
        assert uns["X_seal"]["model_id"] == tuned.id
        unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (obsm["X_seal_image"], obsm["X_seal_expression"])]
        np.testing.assert_allclose(obsm["X_seal"], (unit[0] + unit[1]) / 2, atol=1e-6)
    before = samples[0]["table"].obsm["X_seal"].copy()
    sp.tl.embed(samples, tuned, batch_size=5)
    np.testing.assert_allclose(samples[0]["table"].obsm["X_seal"], before, atol=1e-5)
    sp.tl.embed(samples, tuned)
    np.testing.assert_array_equal(samples[0]["table"].obsm["X_seal"], before)
    sp.tl.embed(samples, tuned, use_rep="X_test_vit_seal", key_added="again")
    np.testing.assert_array_equal(samples[0]["table"].obsm["X_again"], before)


def test_embeddings_survive_the_store(tuned, tmp_path):
    sample = pictured()
    sp.tl.embed(sample, tuned)
    sp.io.write(sample, tmp_path / "a.zarr")
    again = read_zarr(tmp_path / "a.zarr")
    for key in ("X_seal", "X_seal_image", "X_seal_expression"):
        np.testing.assert_array_equal(again["table"].obsm[key], sample["table"].obsm[key])
    assert again["table"].uns["spade"]["X_seal_image"]["encoder_id"] == tuned.id
    table = sp.tl.retrieve(again, again, tuned, k=1)
    assert len(table) == 12


def test_what_embed_writes_from_features_given_by_key_can_be_searched(tuned):
    """The image side holds the features of the model, whichever way they came."""
    samples = pictures()
    sp.pp.encode_patches(samples, encoder=tuned)
    sp.tl.embed(samples, tuned, use_rep="X_test_vit_seal")
    assert len(sp.tl.retrieve(samples, samples, tuned, k=1)) == 24


def test_the_origin_of_an_image_side_goes_with_it(tuned):
    samples = pictures()
    sp.tl.embed(samples, tuned)
    for sample in samples:
        sample["table"].obsm["X_f"] = np.random.default_rng(0).normal(size=(12, 64)).astype(np.float32)
    other = seal(samples, dim=64)
    sp.tl.embed(samples, other)  # replaces what the tuned encoder wrote
    assert "encoder_id" not in samples[0]["table"].uns["spade"].get("X_seal_image", {})
    with pytest.raises(ValueError, match=r"obsm\['X_seal_image'\] is not there or not by this model"):
        sp.tl.retrieve(samples, samples, tuned, k=1)


@pytest.mark.parametrize("kind", ["headed", "tuned"])
def test_samples_without_expression(kind, request):
    model = request.getfixturevalue(kind)
    sample = (cohort() if kind == "headed" else pictures())[0]
    full = sample["table"]
    bare = full[:, :0].copy()
    sample.tables["table"] = bare
    sp.tl.embed(sample, model)
    obsm = sample["table"].obsm
    assert "X_seal_expression" not in obsm
    image = obsm["X_seal_image"]
    np.testing.assert_allclose(obsm["X_seal"], image / np.linalg.norm(image, axis=1, keepdims=True), rtol=1e-6)
    with pytest.raises(ValueError, match=r"has no expression .*cannot be trained on"):
        seal([sample]) if kind == "headed" else request.getfixturevalue("tune")([sample])


def test_genes_that_a_sample_lacks_are_reported(headed):
    sample = cohort()[0]
    table = sample["table"]
    sample.tables["table"] = table[:, ~table.var_names.isin(["G03", "G07"])].copy()
    with warns_here(r"a: 2 of the model's 20 genes are missing and set to their mean in training: 'G03', 'G07'"):
        sp.tl.embed(sample, headed)
    assert np.isfinite(sample["table"].obsm["X_seal_expression"]).all()
    with pytest.raises(ValueError, match=r"genes: training needs every gene .* a lacks 2 of 20"):
        seal([sample, cohort()[1]])
    with pytest.raises(ValueError, match=r"only 18 of the model's 20 genes are there \(90%"):
        sp.tl.embed(sample, headed, min_overlap=0.95)


def test_spots_without_counts_or_patches(tmp_path, tune):
    samples = cohort()
    empty_rows(samples[0], [3, 5])
    spoil(samples[1], "X_f", [7])
    with warns_here("1 spots without a valid patch"), warns_here("2 spots without counts"):
        model = seal(samples)
    assert model.facts["training_spots"] == 69
    with warns_here("a: 2 of 36 spots have no counts"):
        sp.tl.embed(samples, model)
    assert np.isnan(samples[0]["table"].obsm["X_seal_expression"]).any(1).nonzero()[0].tolist() == [3, 5]
    assert not np.isnan(samples[0]["table"].obsm["X_seal"]).any()
    assert np.isnan(samples[1]["table"].obsm["X_seal"]).all(1).nonzero()[0].tolist() == [7]
    far = square_lattice(12)
    far[4] = 5_000
    sample = tiny(12, name="a", spots=circles(far))
    with pytest.warns(UserWarning):
        sp.pp.patches(sample, size_um=UM, size_px=64)
    with warns_here("1 spots without a valid patch are left out"):
        model = tune([sample, pictured("b", 1)])
    assert model.facts["training_spots"] == 23
    sp.tl.embed(sample, model)
    assert np.isnan(sample["table"].obsm["X_seal"]).all(1).nonzero()[0].tolist() == [4]


def test_a_sample_of_which_no_spot_can_be_used(tune):
    samples = cohort()
    empty_rows(samples[0], range(36))
    with warns_here("36 spots without counts"):
        assert seal(samples).facts["training_spots"] == 36
    for sample in samples:
        empty_rows(sample, range(36))
    with warns_here("72 spots without counts"), pytest.raises(ValueError, match="no spot is left to train on among 0"):
        seal(samples)
    images = pictures()
    empty_rows(images[0], range(12))
    with warns_here("12 spots without counts"):
        assert tune(images).facts["training_spots"] == 12
    empty_rows(images[1], range(12))
    with warns_here("24 spots without counts"), pytest.raises(ValueError, match="no spot is left to train on among 0"):
        tune(images)


def test_patches_of_another_size_are_refused(tuned):
    sample = pictured(size_um=80.0)
    with pytest.raises(
        ValueError, match=r"a: patches of 80 µm, but the model was tuned on patches of 60 µm\. Make .*size_um=60"
    ):
        sp.tl.embed(sample, tuned)
    sp.pp.encode_patches(sample, encoder=tuned)
    with pytest.raises(ValueError, match=r"80 µm.*60 µm"):
        sp.tl.embed(sample, tuned, use_rep="X_test_vit_seal")


def test_features_of_another_model_are_refused(tuned, tune):
    samples = pictures()
    other = tune(pictures(), rng=9)
    sp.tl.embed(samples, other)
    for call in (
        lambda: sp.tl.retrieve(samples, samples, tuned),
        lambda: sp.tl.retrieval_metrics(samples, tuned),
        lambda: sp.tl.embed(samples, tuned, use_rep="X_seal_image", key_added="mine"),
    ):
        with pytest.raises(
            ValueError, match=r"a: obsm\['X_seal_image'\] is not there or not by this model.*sp\.tl\.embed"
        ):
            call()


def test_features_of_another_encoder_are_refused():
    samples = cohort()
    for sample in samples:
        said_of(sample, encoder="uni", encoder_id="1", size_um=100.0, input_px=224)
    model = seal(samples)
    assert (model.config.encoder, model.config.encoder_id, model.config.patch_um) == ("uni", "1", 100.0)
    assert model.name == "uni_seal"
    assert model.facts["licence_of_the_encoder"] == "CC BY-NC-ND 4.0"
    said_of(samples[0], encoder="uni", encoder_id="2")
    with pytest.raises(ValueError, match=r"a: obsm\['X_f'\] comes from encoder 'uni' \(id 2\), but the model's"):
        sp.tl.embed(samples, model)
    with pytest.raises(
        ValueError, match=r"b: obsm\['X_f'\] comes from .* but those of the routing or samples before it"
    ):
        seal(samples)
    with pytest.raises(ValueError, match=r"c: obsm\['X_f'\] has 5 features, but the model reads 8 of encoder 'uni'"):
        sp.tl.embed(featured(name="c", width=5), model)
    with pytest.raises(ValueError, match=r"differs in width between samples: \{'a': 8, 'c': 5\}"):
        seal([featured(name="a"), featured(name="c", width=5)])


def test_a_model_on_features_is_no_encoder_of_patches(headed):
    with pytest.raises(ValueError, match=r"encoder=.*reads features.*sp\.tl\.embed"):
        sp.pp.encode_patches(pictured(), encoder=headed)


def test_arrays_of_the_wrong_kind_are_refused(headed, tuned):
    for model, x, said in (
        (headed, np.zeros((2, 5)), r"x has shape \(2, 5\); this model was trained on width 8"),
        (tuned, np.zeros((2, 5)), r"x has shape \(2, 5\); this model was trained on width 64"),
        (tuned, np.zeros((2, PX, PX, 3)), r"x is float64 of shape .*reads uint8 RGB"),
        (tuned, np.zeros((2, 32, 32, 3), np.uint8), r"x is uint8 of shape \(2, 32, 32, 3\)"),
    ):
        with pytest.raises(ValueError, match=said):
            model.encode_image(x)
    with pytest.raises(ValueError, match=r"x has shape \(2, 5\); this model was trained on width 20"):
        headed.encode_expression(np.zeros((2, 5)))
    given = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    given[1] = np.nan
    np.testing.assert_array_equal(tuned.encode_image(given), given)
    assert tuned.encode_image(np.zeros((0, PX, PX, 3), np.uint8)).shape == (0, 64)
    assert np.isnan(headed.encode_image(np.full((2, 8), np.nan))).all()


# --- what is done with embeddings


@pytest.mark.parametrize("kind", ["headed", "tuned"])
def test_search_scores_and_predictions(kind, request):
    model = request.getfixturevalue(kind)
    samples = cohort() if kind == "headed" else pictures()
    control = seal(cohort(), shuffle_pairs=True) if kind == "headed" else None
    sp.tl.embed(samples, model)
    n = len(samples[0]["table"])
    for by, options in (("image", {}), ("expression", {}), ("image", {"gallery_by": "image"})):
        found = sp.tl.retrieve(samples[0], samples, model, query_by=by, k=3, **options)
        assert len(found) == 3 * n
        assert found["score"].between(-1 - 1e-6, 1 + 1e-6).all()
    image, expression = (samples[0]["table"].obsm[f"X_seal_{side}"] for side in ("image", "expression"))
    cosines = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (image, expression)]
    best = sp.tl.retrieve(samples[0], samples[0], model, k=1)
    expected = (cosines[0] @ cosines[1].T).max(1)
    np.testing.assert_allclose(best["score"], expected, atol=1e-5)
    signature = sp.tl.retrieve({"G01": 2.0, "G05": -1.0}, samples, model, k=None)
    assert len(signature) == 2 * n
    assert signature["score"].nunique() > n
    metrics = sp.tl.retrieval_metrics(samples, model, control=control)
    assert set(metrics["gallery"]) == {"all spots", "same section", "other sections"}
    with pytest.raises(ValueError, match=r"mix='logits': a SealModel has no experts to mix"):
        sp.tl.retrieve(samples, samples, model, mix="logits")
    sp.tl.predict_expression(samples[0], model, reference=samples[1:], k=3, method="neighbours")
    assert np.isfinite(samples[0]["table"].obsm["X_predicted"]).all()
    scores = sp.tl.few_shot(samples, label_key="organ", use_rep="X_seal_image", shots=(1, 2), n_repeats=2)
    assert len(scores)
    assert sp.pl.training(model).get_xlabel() == "epoch"
    for call in (lambda: sp.tl.routing_scores(samples, model), lambda: train(samples, init=model)):
        with pytest.raises(TypeError, match="expected a SpadeModel"):
            call()
    with pytest.raises(ValueError, match=r"mix='concat': a SealModel has no experts to mix"):
        sp.tl.embed(samples, model, mix="concat")


def test_a_mixture_on_features_of_a_tuned_encoder(tuned):
    samples = pictures()
    sp.pp.encode_patches(samples, encoder=tuned)
    model = train(samples, use_rep="X_test_vit_seal", n_prototypes=2, n_experts=1)
    assert (model.config.encoder, model.config.encoder_id) == ("test_vit_seal", tuned.id)
    sp.tl.embed(samples, model)
    sp.tl.embed(samples, tuned)
    again = train(samples, use_rep="X_seal_image", n_prototypes=2, n_experts=1)
    assert (again.config.encoder, again.config.encoder_id) == ("test_vit_seal", tuned.id)


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


# --- splits, states, caches


def split(samples, parts=("train", "val", "test")):
    for sample in samples:
        n = len(sample["table"])
        sample["table"].obs["part"] = [parts[i % len(parts)] for i in range(n)]
    return samples


@pytest.mark.parametrize("kind", ["features", "pixels"])
def test_test_spots_are_never_read(kind, tune):
    run, make = (seal, cohort) if kind == "features" else (tune, pictures)
    samples = split(make())
    model = run(samples, split_key="part")
    n = len(samples[0]["table"])
    assert (model.facts["training_spots"], model.facts["validation_spots"]) == (2 * n // 3, 2 * n // 3)
    assert model.history["val_loss"].notna().all()
    least = model.history[model.history["term"] == "loss"].reset_index()["val_loss"].idxmin()
    assert model.facts["best_epoch"] == least
    other = split(make())
    for sample in other:
        test = (sample["table"].obs["part"] == "test").to_numpy()
        counts = sample["table"].X.toarray()
        counts[test] = counts[test][:, ::-1] * 7
        sample["table"].X = type(sample["table"].X)(counts)
        if kind == "features":
            sample["table"].obsm["X_f"][test] *= -3
    assert run(other, split_key="part").id == model.id
    assert run(split(make(), ("train", "test")), split_key="part").id != model.id
    with pytest.raises(ValueError, match=r"no spot is left to train on among \d+ usable ones \(split_key='part'\)"):
        run(split(make(), ("test",)), split_key="part")
    with pytest.raises(KeyError, match=r"split_key='none' is not in obs"):
        run(make(), split_key="none")


class Stop(Exception):
    pass


def test_an_interrupted_training_goes_on(tmp_path, monkeypatch, tune):
    from spade.core.checkpoints import StateFolder

    monkeypatch.setattr("spade.core.seal_training.SECONDS", 0.0)
    write = StateFolder.write
    for name, run, make in (("features", seal, cohort), ("pixels", tune, pictures)):
        whole = run(make(), gene_warmup=1)
        calls = []

        def write_or_stop(self, *args, calls=calls):
            write(self, *args)
            calls.append(1)
            if len(calls) in (2, 5, 9):
                raise Stop

        with monkeypatch.context() as patch:
            patch.setattr(StateFolder, "write", write_or_stop)
            for _ in range(3):
                with pytest.raises(Stop):
                    run(make(), gene_warmup=1, checkpoint_dir=tmp_path / name)
            model = run(make(), gene_warmup=1, checkpoint_dir=tmp_path / name)
        assert model.id == whole.id
        pd.testing.assert_frame_equal(model.history, whole.history)
        with monkeypatch.context() as patch:  # a finished training takes no step
            patch.setattr("spade.core.seal_training._Run._step", lambda *_: pytest.fail("trained again"))
            again = run(make(), gene_warmup=1, checkpoint_dir=tmp_path / name)
        assert (again.id, again.facts) == (whole.id, whole.facts)
        for options, said in (
            ({"lr": 0.5}, r"lr: 0\.001 there, 0\.5 now"),
            ({"rng": 5}, r"seed: 0 there, 5 now"),
            ({"genes": GENES[:19]}, r"of another training"),
        ):
            with pytest.raises(ValueError, match=said):
                run(make(), **{"gene_warmup": 1, "checkpoint_dir": tmp_path / name, **options})
        other = make()
        other[1] = other[1] if name == "none" else make()[0]
        other[1].attrs["spade"] = {**other[1].attrs["spade"], "sample": "b"}
        with pytest.raises(ValueError, match=r"of another training \(.*(expression|images)"):
            run(other, gene_warmup=1, checkpoint_dir=tmp_path / name)
    with pytest.raises(ValueError, match=r"holds .* but no training\.json"):
        seal(cohort(), checkpoint_dir=Path(__file__).parent)


def test_patches_are_cached_once(tmp_path, tune, monkeypatch):
    from spade.core import pixels

    live = tune(pictures())
    cached = tune(pictures(), cache_dir=tmp_path / "cache" / "deep")
    (path,) = (tmp_path / "cache" / "deep").iterdir()
    assert path.stat().st_size == pytest.approx(24 * PX * PX * 3, abs=200)
    assert cached.id == live.id
    written = path.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(pixels, "write_patches", lambda *_: pytest.fail("made again"))
        patch.setattr("spade.tl._patch_reader.write_patches", lambda *_: pytest.fail("made again"))
        assert tune(pictures(), cache_dir=tmp_path / "cache" / "deep").id == live.id
    assert path.stat().st_mtime_ns == written
    other = tune([pictured(seed=7), pictured("b", 1)], cache_dir=tmp_path / "cache" / "deep")
    assert other.id != live.id
    assert len(list((tmp_path / "cache" / "deep").iterdir())) == 2


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-1000])


def of_fewer(path):
    np.save(path, np.load(path)[:-3])


def of_another_size(path):
    np.save(path, np.load(path)[:, :32, :32])


@pytest.mark.parametrize("damage", [cut_off, of_fewer, of_another_size, lambda path: path.write_bytes(b"")])
def test_a_damaged_cache_is_an_error(damage, tmp_path, tune):
    tune(pictures(), cache_dir=tmp_path, n_epochs=1)
    (path,) = tmp_path.iterdir()
    damage(path)
    with pytest.raises(ValueError, match=rf"{path.name}.*Delete it"):
        tune(pictures(), cache_dir=tmp_path, n_epochs=1)


def test_test_spots_are_not_cached(tmp_path, tune):
    tune(split(pictures()), split_key="part", cache_dir=tmp_path, n_epochs=1)
    (path,) = tmp_path.iterdir()
    assert len(np.load(path)) == 16


def test_threads_that_read_change_nothing(tune):
    assert tune(pictures(), n_workers=0).id == tune(pictures(), n_workers=3).id == tune(pictures()).id


def test_several_sections_in_one_object_whose_rows_are_mixed(tune):
    """The order in which patches are read is not that of the table."""
    from _tiny import picture, pixels, table

    centres = square_lattice(8)
    first, second = circles(centres, ids=[f"s{i}" for i in range(8)]), circles(centres, ids=[f"s{i}" for i in range(8)])
    ids, region = [f"s{i // 2}" for i in range(16)], ["one", "two"] * 8
    from spatialdata import SpatialData

    from spade._scale import record_scale

    sdata = SpatialData(
        images={"one_image": picture(pixels(0)), "two_image": picture(pixels(1))},
        shapes={"one": first, "two": second},
        tables={"table": table(ids, region=region)},
    )
    record_scale(sdata, sample="mixed", mpp={"one_image": 1.0, "two_image": 1.0})
    sp.pp.patches(sdata, size_um=UM, size_px=64, image_key={"one": "one_image", "two": "two_image"})
    seen = {}

    def keep(net, pairs, *args, **kwargs):
        seen["pairs"] = pairs
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spade.tl._train_seal.train_seal_net", keep)
        with pytest.raises(Stop):
            tune(sdata)
    pairs = seen["pairs"]
    patches = pairs.images.take(np.arange(16))
    g = pairs.expression.toarray()
    counts = sdata["table"].X.toarray()
    expected = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))[:, :20]
    images = {"one": pixels(0), "two": pixels(1)}
    for row in range(16):
        (match,) = np.flatnonzero(np.isclose(g, expected[row], atol=1e-5).all(1))
        name = region[row]
        assert pairs.names[pairs.section[match]] == f"mixed/{name}"
        x, y = centres[int(ids[row][1:])]
        box = images[name][:, int(y) - 30 : int(y) + 30, int(x) - 30 : int(x) + 30].mean((1, 2))
        np.testing.assert_allclose(patches[match].mean((0, 1)), box, atol=3)


# --- what is refused


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"on_features": None}, ValueError, r"encoder=None, on_features=None: give one of them"),
        ({"encoder": "test_vit"}, ValueError, r"encoder='test_vit', on_features='X_f': give one of them"),
        ({"weights": "random"}, ValueError, r"weights='random': on_features= reads features that are there"),
        ({"on_features": "X_none"}, KeyError, r"a: use_rep='X_none' is not in obsm; there is 'X_f'"),
        ({"genes": ["G01", "none"]}, ValueError, r"genes: training needs every gene .* a lacks 1 of 2"),
        ({"genes": None}, ValueError, r"genes=None, and no sample has var\['spade_gene'\]"),
        ({"batch_size": 1}, ValueError, r"batch_size=1: expected a whole number of at least 2"),
        ({"micro_batch_size": 0}, ValueError, r"micro_batch_size=0: expected a whole number of at least 1"),
        ({"micro_batch_size": -1}, ValueError, r"micro_batch_size=-1: expected a whole number of at least 1"),
        ({"n_workers": -1}, ValueError, r"n_workers=-1: expected a whole number of at least 0"),
        ({"n_workers": 1.5}, ValueError, r"n_workers=1\.5: expected a whole number of at least 0"),
        ({"targets": "qkv", "head": "deep"}, ValueError, r"head='deep'"),
        ({"device": "gpu"}, ValueError, r"device='gpu' is not a torch device"),
        ({"devices": 0}, ValueError, r"devices=0: expected a whole number of at least 1"),
        ({"precision": "fp16"}, ValueError, r"precision='fp16': expected one of"),
        ({"rng": -1}, TypeError, r"rng=-1: expected a non-negative int"),
        ({"table_key": "none"}, KeyError, r"table_key='none' is not there"),
        ({"layer": "none"}, KeyError, r"layer='none' is not there"),
        (
            {"cache_dir": "somewhere"},
            ValueError,
            r"cache_dir='somewhere': on_features= reads features.*leave cache_dir= out",
        ),
    ],
)
def test_bad_input_on_features(options, error, said):
    with pytest.raises(error, match=said):
        seal(cohort(), **options)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (
            {"encoder": "texture", "weights": None},
            ValueError,
            r'encoder="texture" is no network.*on_features="X_texture"',
        ),
        ({"dim": 8}, ValueError, r"dim=8: the joint space of a tuned encoder is as wide as its features"),
        ({"encoder": "UNI"}, ValueError, r"encoder='UNI' is not known"),
        ({"encoder": ""}, ValueError, r"encoder='' is not known"),
        ({"encoder": 3}, (TypeError, ValueError), r"encoder=3"),
        ({"weights": "none.pth"}, FileNotFoundError, r"there is no such file"),
        ({"patches_key": "tiles"}, KeyError, r"patches_key='tiles' is not there; patches: 'patches'"),
        (
            {"targets": ("qkv", "up")},
            ValueError,
            r"blocks\.\d+ has no linear layer 'up'; there are fc1, fc2, proj, qkv",
        ),
        ({"n_blocks": 99}, ValueError, r"n_blocks=99, but the encoder has \d+ blocks"),
    ],
)
def test_bad_input_on_pixels(options, error, said, tune):
    with pytest.raises(error, match=said):
        tune(pictures(), **options)


def test_no_patches(tune):
    with pytest.raises(KeyError, match=r"a: patches_key='patches' is not there; patches: none\. Make them"):
        tune([tiny(12, name="a")])


def test_patches_of_several_sizes(tune):
    with pytest.raises(ValueError, match=r"b: patches of 80 µm, but those of samples before it are of 60 µm"):
        tune([pictured(), pictured("b", 1, size_um=80.0)])


def test_samples_of_one_name():
    with pytest.raises(ValueError, match=r"two samples are named 'a'"):
        seal([featured(name="a"), featured(name="a", seed=1)])


def only(sample, rows):
    """Let some rows train."""
    part = np.full(len(sample["table"]), "test", dtype=object)
    part[list(rows)] = "train"
    sample["table"].obs["part"] = part
    return sample


def test_too_few_spots_to_compare():
    a, b = cohort()
    with pytest.raises(ValueError, match="a single spot is left to train on, and the loss compares spots"):
        seal([only(a, [3]), only(b, [])], split_key="part")
    assert seal([only(a, [3]), only(b, [5])], split_key="part").facts["training_spots"] == 2
    with pytest.raises(ValueError, match=r'negatives="section": a has a single training spot.*negatives="all"'):
        seal([only(a, [3]), only(b, [5, 6])], split_key="part", negatives="section")
    for samples in ([a], [only(a, [3, 4]), only(b, [])]):
        with pytest.raises(ValueError, match=r"adversary=0\.5: there is one section to train on"):
            seal(samples, adversary=0.5, split_key="part")
    seal([only(a, range(9)), only(b, range(2))], split_key="part", balance_sections=True, negatives="section")


def test_a_loss_that_is_no_number_names_the_samples():
    with pytest.raises(NonFiniteLossError, match=r"the loss became (nan|inf) in step \d+, on spots of a, b.*Lower lr="):
        seal(cohort(), lr=1e30, n_epochs=30)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.update(extra=torch.zeros(1)), r"1 keys too many \['extra'\]"),
        (lambda s: s.pop("norm.weight"), r"1 keys missing \['norm\.weight'\]"),
    ],
)
def test_weights_must_fit(change, said, network, tmp_path, tune):
    state = dict(network.state_dict())
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=rf"does not fit encoder='test_vit'.*{said}"):
        tune(pictures(), weights=tmp_path / "w.safetensors")


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


SCRIPT = """
import os, pathlib, sys
sys.path.insert(0, sys.argv[1])
from test_train_seal import FAST, cohort, pictures, seal, sp
rank, out, weights = int(os.environ["RANK"]), pathlib.Path(sys.argv[2]), sys.argv[3]

def attempt(what, run, samples, **options):
    try:
        model = run(samples, **options)
        model.save(out / f"{what} {rank}")
    except Exception as error:
        (out / f"{what} {rank}.txt").write_text(f"{type(error).__name__}: {error}")

def tune(samples, **options):
    return sp.tl.train_seal(samples, encoder="test_vit", weights=weights, **FAST | {"batch_size": 8} | options)

still = {"dropout": 0.0, "flips": False, "rotations": False, "stain_jitter": 0.0}
attempt("features", seal, cohort(), checkpoint_dir=out / "state", **still)
attempt("again", seal, cohort(), checkpoint_dir=out / "state", **still)
attempt("pixels", tune, pictures(), cache_dir=out / "cache", **still)
attempt("other", seal, cohort()[rank:])
attempt("many", seal, cohort(), devices=2)
attempt("not a number", seal, cohort(), lr=1e30, n_epochs=30)
"""


@pytest.mark.slow
def test_torchrun_trains_one_model_on_all_ranks(tmp_path, weights, tune):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    arguments = [str(Path(__file__).parent), str(tmp_path), str(weights)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    still = {"dropout": 0.0, "flips": False, "rotations": False, "stain_jitter": 0.0}
    for what, whole in (("features", seal(cohort(), **still)), ("pixels", tune(pictures(), **still))):
        one, other = (SealModel.load(tmp_path / f"{what} {rank}", weights=weights) for rank in (0, 1))
        assert one.id == other.id
        assert len(one.history) == len(whole.history)
        np.testing.assert_allclose(one.history["train_loss"], whole.history["train_loss"], rtol=1e-3)
        for found, expected in zip(
            *(outputs(model, cohort() if what == "features" else pictures()) for model in (one, whole)), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02)
    first = SealModel.load(tmp_path / "features 0").id
    assert {SealModel.load(tmp_path / f"again {rank}").id for rank in (0, 1)} == {first}
    assert len(list((tmp_path / "cache").iterdir())) == 1
    for rank, other in ((0, 1), (1, 0)):
        said = {what: (tmp_path / f"{what} {rank}.txt").read_text() for what in ("other", "many", "not a number")}
        assert (
            f"ValueError: rank {rank} and rank {other} have not the same expression, images, rows, samples"
            in said["other"]
        )
        assert "devices=2 under torchrun" in said["many"]
        assert "NonFiniteLossError: the loss became" in said["not a number"]
