"""What users get wrong when they tune an encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.seal import FAST, cohort, pictured, pictures, seal
from helpers.sections import featured, tiny, warns_here
from safetensors.torch import save_file
from scipy.sparse import csr_matrix

import spade as sp
from spade.core.errors import NonFiniteLossError


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
        (
            {"patches_key": "squares"},
            ValueError,
            r"patches_key='squares': on_features= reads features.*leave patches_key= out",
        ),
        ({"n_workers": 0}, ValueError, r"n_workers=0: on_features= reads features.*leave n_workers= out"),
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
            r'encoder="texture" is not a network.*on_features="X_texture"',
        ),
        ({"dim": 8}, ValueError, r"dim=8: the joint space of a tuned encoder is as wide as its features"),
        ({"encoder": "UNI"}, ValueError, r"encoder='UNI' is not known"),
        ({"encoder": ""}, ValueError, r"encoder='': expected a name"),
        ({"encoder": 3}, (TypeError, ValueError), r"encoder=3"),
        ({"weights": "none.pth"}, FileNotFoundError, r"weights: there is no file 'none\.pth'"),
        ({"patches_key": "tiles"}, KeyError, r"patches_key='tiles' is not there; patches: 'patches'"),
        (
            {"targets": ("qkv", "up")},
            ValueError,
            r"blocks\.\d+ has no linear layer 'up'; its linear layers are fc1, fc2, proj, qkv",
        ),
        ({"n_blocks": 99}, ValueError, r"n_blocks=99 is more than the number of blocks of the encoder, \d+"),
    ],
)
def test_bad_input_on_pixels(options, error, said, tune):
    with pytest.raises(error, match=said):
        tune(pictures(), **options)


@pytest.mark.parametrize("options", [{"n_blocks": 2}, {"targets": ("qkv",)}])
def test_settings_of_blocks_on_a_cnn(options):
    said = (
        f"{next(iter(options))}=.*: encoder 'test_resnet' has no transformer blocks.*leave {next(iter(options))}= out"
    )
    with warns_here("random weights"), pytest.raises(ValueError, match=said):
        sp.tl.train_seal(pictures(), encoder="test_resnet", weights="random", **FAST, **options)


def test_no_patches(tune):
    with pytest.raises(KeyError, match=r"a: patches_key='patches' is not there; patches: none\. Make them"):
        tune([tiny(12, name="a")])


def test_patches_of_several_sizes(tune):
    with pytest.raises(ValueError, match=r"b: patches of 80 µm, but those of samples before it are of 60 µm"):
        tune([pictured(), pictured("b", 1, size_um=80.0)])


def test_samples_of_one_name():
    with pytest.raises(ValueError, match=r"two sections are named 'a'"):
        seal([featured(name="a"), featured(name="a", seed=1)])


def only(sample, rows):
    """Let some rows train."""
    part = np.full(len(sample["table"]), "test", dtype=object)
    part[list(rows)] = "train"
    sample["table"].obs["part"] = part
    return sample


def test_too_few_spots_to_compare():
    a, b = cohort()
    with pytest.raises(ValueError, match="a single spot is left to train on, but the loss compares spots"):
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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"rank": 4, "stain_jitter": 0.2},
            r"rank=4, stain_jitter=0\.2: has a use only where an encoder is trained; leave rank=",
        ),
        ({"targets": "qkv"}, r"targets=\('qkv',\): has a use only where an encoder"),
        ({"micro_batch_size": 4}, r"micro_batch_size=4: has a use only where an encoder"),
    ],
)
def test_settings_of_pixels_on_features(options, said):
    with pytest.raises(ValueError, match=said):
        seal(cohort(), **options)


@pytest.mark.parametrize("options", [{"hidden": 16}, {"head": "linear"}])
def test_settings_of_a_head_on_pixels(options, tune):
    with pytest.raises(
        ValueError, match=f"{next(iter(options))}=.*: has a use only where a head on features is trained"
    ):
        tune(pictures(), **options)


def test_few_steps_are_told(caplog):
    seal(cohort(), n_epochs=19)
    assert "steps in all: 95 (n_epochs=19 of 5 each, of 72 training spots)" in caplog.text
    assert "batch_size=16" in caplog.text
    caplog.clear()
    seal(cohort(), n_epochs=20)
    assert "steps" not in caplog.text


def test_a_state_is_of_the_sections_it_was_trained_with():
    """Which spots are one section decides what ``negatives="section"`` compares."""
    from dataclasses import replace

    from spade.core.distributed.machine import Machine
    from spade.models import SealConfig
    from spade.tl._training.data import TrainingData
    from spade.tl._training.seal_steps import seal_identity

    section = np.repeat(["a", "b"], 3)
    data = TrainingData(
        np.ones((6, 2), np.float32), str, csr_matrix(np.eye(6)), np.zeros(6, int), np.zeros(6, "U1"), section, ["a"]
    )
    one, other = (
        seal_identity(replace(data, section=names), SealConfig(), Machine()) for names in (section, section[::-1])
    )
    assert {name for name in one if one[name] != other[name]} == {"rows"}
