"""Weights of other programs: what stands around and before their keys is removed by one rule, and NaN is refused."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from helpers.networks import ARCHITECTURE, PX
from safetensors.torch import load_file, save_file

import spade as sp
from spade.io._state_dict import keys_fitting


def get(content, path):
    torch.save(content, path)
    return sp.encoders.get(ARCHITECTURE, weights=path)


def prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


def other(state):
    return {name: value + 1 for name, value in state.items()}


HEAD = {"dino_head.mlp.0.weight": torch.zeros(2, 2)}
FORMS = {
    "module": lambda s: prefixed(s, "module."),
    "backbone": lambda s: prefixed(s, "backbone."),
    "teacher": lambda s: prefixed(s, "teacher."),
    "student alone": lambda s: prefixed(s, "student."),
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "teacher.backbone, and its head": lambda s: prefixed(s, "teacher.backbone.") | prefixed(HEAD, "teacher."),
    "module.teacher.backbone": lambda s: prefixed(s, "module.teacher.backbone."),
    "teacher and student": lambda s: prefixed(other(s), "student.") | prefixed(s, "teacher."),
    "the same under backbone": lambda s: prefixed(s, "teacher.backbone.") | prefixed(other(s), "student.backbone."),
    "state_dict": lambda s: {"state_dict": prefixed(s, "module."), "epoch": 3},
    "model in state_dict": lambda s: {"state_dict": {"model": s}},
    "two dicts": lambda s: {"student": other(s), "teacher": prefixed(s, "backbone."), "epoch": 3},
    "lightning": lambda s: {"state_dict": prefixed(s, "model.")},
}


@pytest.mark.parametrize("form", FORMS)
def test_prefixes_and_containers_are_removed_by_one_rule(form, network, encoder, tmp_path):
    assert get(FORMS[form](network.state_dict()), tmp_path / "w.pth").id == encoder.id


@pytest.mark.parametrize("form", ["teacher and student", "two dicts", "teacher.backbone, and its head"])
def test_the_log_says_what_is_taken(form, network, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="spade")
    get(FORMS[form](network.state_dict()), tmp_path / "w.pth")
    said = " ".join(caplog.messages)
    assert "teacher" in said
    assert ("'student" in said) == (form != "teacher.backbone, and its head")
    assert ("left out: 'teacher.dino_head.mlp.0.weight'" in said) == (form == "teacher.backbone, and its head")


def test_a_whole_student_does_not_replace_a_teacher_that_lacks_something(network, tmp_path):
    state = dict(network.state_dict())
    teacher = {name: value for name, value in state.items() if name != "norm.weight"}
    with pytest.raises(ValueError, match=r"without the prefix 'teacher\.', does not fit.*missing \['norm\.weight'\]"):
        get(prefixed(teacher, "teacher.") | prefixed(state, "student."), tmp_path / "w.pth")


def test_an_unknown_prefix_is_named_with_the_keys_expected(network, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"keys missing \['blocks\.0.*Its keys have the prefix 'net\.vision\.'; only module, .* are removed",
    ) as caught:
        get(prefixed(network.state_dict(), "net.vision."), tmp_path / "w.pth")
    assert "net.vision.blocks.0" in str(caught.value)


def test_keys_that_fit_as_they_are_stay_as_they_are():
    state = {"model.weight": torch.zeros(1), "backbone.model.weight": torch.ones(1)}
    kept, prefix = keys_fitting(state, ["model.weight"], "file")
    assert (kept, prefix) == (state, "")


@pytest.mark.parametrize(
    ("value", "name"), [(np.inf, "norm.bias"), (np.nan, "blocks.3.mlp.fc1.weight"), (1e300, "cls_token")]
)
def test_weights_that_are_not_finite_are_refused_by_name(value, name, network, tmp_path):
    state = {key: tensor.double() for key, tensor in network.state_dict().items()}
    state[name] = state[name].clone()
    state[name].view(-1)[0] = value
    with pytest.raises(
        ValueError, match=rf"w\.pth'.*1 of \d+ tensors hold NaN or infinite values, such as '{name}' in 1 of"
    ):
        get(state, tmp_path / "w.pth")


def test_quantised_weights_are_not_read_as_numbers(network, tmp_path):
    state = dict(network.state_dict())
    state["norm.weight"] = (state["norm.weight"] * 100).to(torch.int8)
    with pytest.raises(ValueError, match=r"'norm\.weight' holds torch\.int8, expected torch\.float32"):
        get(state, tmp_path / "w.pth")


def test_the_classifier_is_dropped_after_the_prefix_and_may_hold_anything(network, encoder, tmp_path):
    state = prefixed(network.state_dict(), "module.")
    heads = [name for name in state if name.startswith("module.head.")]
    assert heads
    state[heads[0]] = torch.full_like(state[heads[0]], torch.nan)
    assert get(state, tmp_path / "w.pth").id == encoder.id


def spoil(folder, name, value=np.nan):
    arrays = {key: tensor.clone() for key, tensor in load_file(folder / "model.safetensors").items()}
    arrays[name].view(-1)[0] = value
    save_file(arrays, folder / "model.safetensors")
    (folder / "checksums.json").unlink(missing_ok=True)  # as a folder of an earlier version


def test_models_with_weights_that_are_not_finite_are_refused_by_name(model, headed, tmp_path):
    for kind, saved, name in (
        (sp.models.SpadeModel, model, "experts.image_projection.fc.bias"),
        (sp.models.SpadeModel, model, "routing.centroids"),
        (sp.models.SealModel, headed, "gene.fc_mu.bias"),
    ):
        saved.save(tmp_path / name)
        spoil(tmp_path / name, name)
        with pytest.raises(ValueError, match=rf"model\.safetensors: 1 of \d+ tensors hold NaN .*'{name}' in 1 of"):
            kind.load(tmp_path / name)


def test_a_diverged_model_is_not_saved(model, tmp_path):
    from copy import deepcopy

    broken = deepcopy(model)
    with torch.no_grad():
        broken.experts.image_projection.fc.bias[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"the model is not saved: .*'experts\.image_projection\.fc\.bias'"):
        broken.save(tmp_path / "broken")
    assert not list(tmp_path.iterdir())


def test_published_files_with_a_prefix_are_read_and_nan_is_refused(tmp_path):
    from spade.core.experts.heads import Experts

    torch.manual_seed(0)
    centroids, assignment = np.random.default_rng(0).normal(size=(4, 6)), np.array([0, 1, 0, 1])
    states = []
    for expert in range(2):
        module = Experts(1, 6, 5, 8)
        module.initialise([torch.Generator().manual_seed(expert)])
        states.append({name: value[0].clone() for name, value in module.state_dict().items()})
        torch.save({"model": prefixed(states[expert], "module.")}, tmp_path / f"proto{expert}.pt")
    read = sp.models.read_published_spade(tmp_path, centroids, assignment)
    name = "image_projection.fc.bias"
    np.testing.assert_array_equal(read.experts.state_dict()[name][1], states[1][name])
    states[1][name][2] = torch.nan
    torch.save(states[1], tmp_path / "proto1.pt")
    with pytest.raises(
        ValueError, match=rf"proto1\.pt: 1 of \d+ tensors hold NaN or infinite values, such as '{name}'"
    ):
        sp.models.read_published_spade(tmp_path, centroids, assignment)


def test_features_of_finite_weights_are_finite(encoder):
    assert np.isfinite(encoder.encode(np.full((2, PX, PX, 3), 255, np.uint8), 0.5)).all()
