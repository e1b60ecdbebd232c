"""What an encoder needs, told offline; and weights in the cache of the hub."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from helpers.sections import pixels

import spade as sp
from spade.encoders._spec import SPECS, EncoderSpec


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """An empty cache, no network, nobody logged in."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    return tmp_path


def put(hub, repository, file, write):
    """Write a file of a repository as the hub's client caches it."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    path = folder / "snapshots" / ("a" * 40) / file
    path.parent.mkdir(parents=True)
    write(path)
    return path


@pytest.mark.parametrize("name", list(SPECS))
def test_every_entry_says_what_to_do(name):
    start = time.process_time()
    status = sp.encoders.check(name)
    assert time.process_time() - start < 2
    assert status.ready == (name == "texture")
    assert (status.name, status.licence, status.gated) == (name, SPECS[name].licence, SPECS[name].gated)
    assert str(status) == f"{name}: {'' if status.ready else 'not '}ready. Licence: {status.licence}. {status.todo}"
    assert ("Log in" in status.todo) == ("Request access" in status.todo) == bool(SPECS[name].gated)
    if SPECS[name].page:
        assert f"Download the weights from {SPECS[name].page}" in status.todo


def test_who_is_logged_in_need_not_do_it_again(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    status = sp.encoders.check("uni_v2")
    assert (status.name, status.logged_in) == ("uni2_h", True)
    assert status.todo.startswith("Request access at https://huggingface.co/MahmoodLab/UNI2-h. The first use")


@pytest.mark.parametrize(
    ("name", "repository", "file"),
    [
        ("uni", "MahmoodLab/UNI", "pytorch_model.bin"),
        ("phikon_v2", "owkin/phikon-v2", "model.safetensors"),
        ("seal_conch", "MahmoodLab/SEAL", "seal_conch_vision.pth"),
        ("hf-hub:me/mine", "me/mine", "model.safetensors"),
    ],
)
def test_weights_in_the_cache_are_found(name, repository, file, hub):
    assert not sp.encoders.check(name).ready
    path = put(hub, repository, file, lambda path: path.touch())
    assert not sp.encoders.check(name).ready  # nothing but the start of a download
    path.write_bytes(b"weights")
    status = sp.encoders.check(name)
    assert (status.ready, status.cached, status.todo) == (True, path, f"The weights are in {str(path)!r}.")
    assert not sp.encoders.check("seal_uni2_h").ready


def test_what_is_no_encoder_is_refused():
    with pytest.raises(ValueError, match="encoder='UNI' is not known"):
        sp.encoders.check("UNI")
    with pytest.raises(ValueError, match="encoder=3: expected a name"):
        sp.encoders.check(3)


def test_an_architecture_without_weights_says_so():
    assert "No published weights are known of 'test_vit4'" in sp.encoders.check("test_vit4").todo


def test_a_file_of_the_hub_is_read_from_the_cache(hub, network, encoder, monkeypatch):
    spec = EncoderSpec("tiny", "hf-hub:me/tiny", "test_vit", 64, file="tiny.pth", licence="MIT", gated=True)
    monkeypatch.setitem(SPECS, "tiny", spec)
    with pytest.raises(RuntimeError, match=r"published weights of 'hf-hub:me/tiny' could not be downloaded .*Request"):
        sp.encoders.get("tiny")
    put(hub, "me/tiny", "tiny.pth", lambda path: torch.save({"model": network.state_dict()}, path))
    found = sp.encoders.get("tiny", device="cpu")
    patches = pixels(3, (2, found.input_px, found.input_px, 3))
    np.testing.assert_array_equal(found.encode(patches, 0.5), encoder.encode(patches, 0.5))
    assert found.id == encoder.id
