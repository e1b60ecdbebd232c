"""A tuned encoder saved and loaded, and folders that were changed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.seal import PX, cohort, outputs, pictures
from helpers.sections import edit, no_warning, train, warns_here
from safetensors.torch import load_file, save_file

import spade as sp
from spade.core.vision.lora import adapters
from spade.models import SealModel


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
            r"cannot be read as a model .*\['new'\], but config.json says that it has none",
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
    (tmp_path / "model" / "checksums.json").unlink()  # as an earlier version saved it: all else is looked at as well
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        SealModel.load(tmp_path / "model", weights=weights if kind == "tuned" else None)


@pytest.mark.parametrize("change", [drop, swap])
def test_merged_weights_are_looked_at(change, tuned, tmp_path):
    tuned.save(tmp_path / "model", merge=True)
    change(tmp_path / "model", "base.norm.weight")
    (tmp_path / "model" / "checksums.json").unlink()
    with pytest.raises(ValueError, match=r"weights.*test_vit"):
        SealModel.load(tmp_path / "model")


def test_folders_of_the_other_kind_of_model_are_told_apart(headed, tmp_path):
    train(cohort()).save(tmp_path / "spade")
    headed.save(tmp_path / "seal")
    with pytest.raises(ValueError, match=r"describes model 'SpadeModel'.*sp\.models\.SpadeModel\.load reads it"):
        SealModel.load(tmp_path / "spade")
    with pytest.raises(ValueError, match=r"describes model 'SealModel'.*sp\.models\.SealModel\.load reads it"):
        sp.models.SpadeModel.load(tmp_path / "seal")
    with pytest.raises(FileExistsError, match="exists and is not a model"):
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
