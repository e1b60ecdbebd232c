"""Weights are read as data or not at all."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from helpers.networks import ARCHITECTURE, FILES

import spade as sp
from spade.io._state_dict import read_state


@pytest.mark.parametrize("file", ["vit.safetensors", "bare.pth", "legacy.pt"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.999])
def test_files_that_were_cut_off_are_refused(file, keep, network, tmp_path):
    path = tmp_path / file
    FILES[file](network.state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match=rf"{file}' (cannot be read .*was the file cut off|holds more than tensors)"):
        sp.encoders.get(ARCHITECTURE, weights=path)


@pytest.mark.parametrize("file", ["bare.pth", "legacy.pt", "vit.safetensors"])
def test_damaged_files_are_refused_in_the_same_words(file, tmp_path):
    path = tmp_path / file
    FILES[file]({"a": torch.arange(3.0), "b": torch.zeros(2, 2)}, path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(len(damaged), size=8):
            damaged[place] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            read_state(path)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 10


class Trap:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("form", ["torch", "legacy", "plain pickle"])
def test_code_in_a_file_is_never_run(form, tmp_path):
    path, marker = tmp_path / "w.pth", tmp_path / "ran"
    if form == "plain pickle":
        path.write_bytes(pickle.dumps({"model": Trap(marker)}))
    else:
        torch.save({"model": Trap(marker)}, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(ValueError, match=r"holds more than tensors.*never code: save model\.state_dict\(\)") as caught:
        sp.encoders.get(ARCHITECTURE, weights=path)
    assert not marker.exists()
    assert "weights_only" not in str(caught.value)  # torch suggests to trust the file; this package does not


def test_a_pickled_module_is_refused(network, tmp_path):
    torch.save(network, tmp_path / "module.pth")
    with pytest.raises(
        ValueError, match=r"Only tensors are read, never code: save model\.state_dict\(\) instead of the mod"
    ):
        sp.encoders.get(ARCHITECTURE, weights=tmp_path / "module.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds list, not a state dict of tensors by name"),
        ({1: torch.zeros(1)}, "holds dict, not a state dict"),
        ({"model": {"a": 1}}, "neither bare nor under 'model', 'state_dict', 'teacher' or 'student'"),
    ],
)
def test_only_state_dicts_are_read(content, said, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=said):
        read_state(tmp_path / "w.pth")
