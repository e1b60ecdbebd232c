"""Devices and the processes of torchrun share the work, and the bytes are those of one process."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.large.encoding import Colours, files, hidden, placed, readers, stored
from helpers.large.stains import PALE, THEIRS, stained
from helpers.networks import random
from spatialdata import read_zarr

import spade as sp
from spade._samples.encoding.devices import encode_on, encoders_on, share
from spade.core import device
from spade.core.distributed.ranks import ALONE, Ranks

TESTS = str(Path(__file__).parents[2])
ONE = {"batch_size": 1}


class Movable(Colours):
    """An encoder that can be copied to devices."""

    device = "cpu"

    def __deepcopy__(self, memo):
        copies.append(copy := Movable(self.then))
        return copy

    def to(self, place):
        self.device = place
        return self


copies: list[Movable] = []


# --- devices


def test_shares_follow_each_other_and_are_complete():
    for n in range(1, 6):
        parts = [share(range(10, 23), number, n) for number in range(n)]
        assert [piece for part in parts for piece in part] == list(range(10, 23))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_two_devices_give_the_bytes_of_one(tmp_path):
    one, two = (stored(tmp_path / f"{name}.zarr") for name in ("one", "two"))
    sp.pp.encode_patches(one, Colours(), **ONE)
    copies.clear()
    encoder = Movable()
    sp.pp.encode_patches(two, encoder, devices=2, **ONE)
    assert files(one) == files(two)
    assert sorted([encoder.patches, copies[0].patches]) == [16, 20]  # two of five pieces, and three
    sdata = placed()
    sp.pp.encode_patches(sdata, Movable(), devices=3, **ONE)
    np.testing.assert_array_equal(sdata["table"].obsm["X_colours"], read_zarr(one)["table"].obsm["X_colours"])
    assert readers() == []


def test_two_devices_in_the_colours_of_another_slide(tmp_path):
    """Features without those colours are made anew; those that are there are left alone, unless ``overwrite``."""
    one, two = (stained(tmp_path / name / "theirs.zarr", THEIRS, PALE) for name in ("one", "two"))
    own = stained(tmp_path / "ours.zarr")
    encode = partial(sp.pp.encode_patches, colour="reinhard", colour_reference=own, batch_size=1)
    encode(one, Colours())
    sp.pp.encode_patches(two, Movable(), devices=2, **ONE)
    assert files(one) != files(two)
    n = []
    for overwrite in (False, False, True):
        copies.clear()
        encoder = Movable()
        encode(two, encoder, devices=2, overwrite=overwrite)
        assert files(one) == files(two)
        n.append(encoder.patches + sum(copy.patches for copy in copies))
    assert n == [(n_spots := read_zarr(two)["table"].n_obs), 0, n_spots]


def test_what_one_device_began_two_go_on_with(tmp_path):
    def interrupt(number):
        if number == 20:
            raise KeyboardInterrupt

    one, path = (stored(tmp_path / f"{name}.zarr") for name in ("one", "two"))
    sp.pp.encode_patches(one, Colours(), **ONE)
    with pytest.raises(KeyboardInterrupt):
        sp.pp.encode_patches(path, Colours(interrupt), **ONE)
    copies.clear()
    encoder = Movable()
    sp.pp.encode_patches(path, encoder, devices=2, **ONE)
    assert encoder.patches + copies[0].patches == 36 - 16
    assert files(one) == files(path)


def test_an_error_on_one_device_ends_the_others(tmp_path):
    path = stored(tmp_path / "sample.zarr")
    copies.clear()

    def fail(number):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        sp.pp.encode_patches(path, Movable(fail), devices=2, **ONE)
    assert readers() == []


def test_a_network_is_copied_to_its_devices():
    network = random()
    first, second = encoders_on(network, 2, ALONE)
    assert first is network
    assert second is not network
    assert second.model is not network.model
    patches = np.random.default_rng(0).integers(0, 255, (2, network.input_px, network.input_px, 3), dtype=np.uint8)
    np.testing.assert_array_equal(first.encode(patches, 0.5), second.encode(patches, 0.5))
    assert second.id == network.id


@pytest.mark.parametrize(
    ("encoder", "options", "said"),
    [
        (Colours(), {"devices": 2}, r"devices=2, but encoder 'colours' has no device and to\(device\)"),
        ("texture", {"devices": 2}, r"devices=2, but encoder 'texture' has no device"),
        ("texture", {"devices": 0}, r"devices=0: expected a whole number of at least 1"),
        (Movable(), {"devices": True}, r"devices=True: expected a whole number"),
    ],
)
def test_devices_are_checked_before_a_patch_is_read(encoder, options, said):
    sdata = placed(6)
    with pytest.raises(ValueError, match=said):
        sp.pp.encode_patches(sdata, encoder, **options)


def test_one_gpu_cannot_be_two(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    encoder = Movable()
    encoder.device = "cuda"
    with pytest.raises(ValueError, match="devices=2, but the number of CUDA devices is 1"):
        encoders_on(encoder, 2, ALONE)


def test_every_rank_takes_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    encoder = Movable()
    encoder.device = "cuda"
    assert [encoders_on(encoder, 1, Ranks(rank, 6, rank % 4))[0].device for rank in range(6)] == [
        f"cuda:{i}" for i in (0, 1, 2, 3, 0, 1)
    ]
    plain = Colours()
    assert encoders_on(plain, 1, Ranks(1, 2, 1)) == [plain]


class Tensor:
    """What a tensor does on its way to a GPU, written down."""

    def __init__(self, done):
        self.done = done

    def is_pinned(self):
        return "pinned" in self.done

    def pin_memory(self):
        return Tensor([*self.done, "pinned"])

    def to(self, place, **options):
        return Tensor([*self.done, (place, options)])


def test_patches_go_to_a_gpu_from_pinned_memory_without_waiting(monkeypatch):
    patches = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    assert device.pinned(patches, "cpu") is patches
    assert device.pinned(patches, None) is patches
    np.testing.assert_array_equal(device.send(patches, "cpu").numpy(), patches)
    patches.flags.writeable = False
    np.testing.assert_array_equal(device.send(patches[:, ::-1], "cpu").numpy(), patches[:, ::-1])
    way = ["pinned", ("cuda:1", {"non_blocking": True})]
    for before in ([], ["pinned"]):
        monkeypatch.setattr(device, "_tensor", lambda array, before=before: Tensor(before))
        assert device.send(patches, "cuda:1").done == way


@pytest.mark.parametrize(
    ("cores", "encoders", "processes", "readers"), [(2, 1, 1, 1), (16, 1, 1, 4), (16, 8, 1, 1), (16, 1, 4, 2)]
)
def test_encoders_share_the_cores_for_reading(cores, encoders, processes, readers, monkeypatch):
    from spade._samples import encode

    monkeypatch.setattr(encode.os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert encode.n_readers(encoders) == readers


def test_pieces_are_kept_one_at_a_time(tmp_path):
    from spade._samples.encode import plan_encoding
    from spade._samples.open import iter_samples

    (sample,) = iter_samples(placed())
    copies.clear()
    encoders = encoders_on(Movable(), 2, ALONE)
    plan = plan_encoding(sample, encoders[0], "patches", 1)
    kept, told = {}, []
    encode_on(encoders, plan, range(5), lambda piece, values: kept.update({piece: len(values)}), told.append)
    assert kept == {0: 8, 1: 8, 2: 8, 3: 8, 4: 4}
    assert sum(told) == 36


# --- torchrun

SCRIPT = """
import os, pathlib, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import spade as sp
from helpers.large.encoding import Colours, placed
rank, folder = int(os.environ["RANK"]), pathlib.Path(sys.argv[2])

def attempt(what, samples, encoder, **options):
    try:
        sp.pp.encode_patches(samples, encoder, **options)
    except Exception as error:
        (folder / f"{what} {rank}.txt").write_text(f"{type(error).__name__}: {error}")

paths = [folder / "a.zarr", folder / "b.zarr"]
encoder = Colours()
sp.pp.encode_patches(paths, encoder, batch_size=1)
(folder / f"patches {rank}.txt").write_text(str(encoder.patches))
from spatialdata import read_zarr
assert all("X_colours" in read_zarr(path)["table"].obsm for path in paths)  # written when the call returns
colour, n = {"colour": "reinhard", "colour_reference": folder / "ours.zarr"}, []
for overwrite in (False, False, True):
    encoder = Colours()
    sp.pp.encode_patches(folder / "theirs.zarr", encoder, batch_size=1, overwrite=overwrite, **colour)
    n.append(encoder.patches)
(folder / f"coloured {rank}.txt").write_text(str(n))
sdata = placed()
sp.pp.encode_patches(sdata, Colours(), batch_size=1)
np.save(folder / f"object {rank}.npy", sdata["table"].obsm["X_colours"])
attempt("other", paths, Colours(id=f"colours-{rank}"), batch_size=1)
attempt("many", paths, Colours(), devices=2)

def fail(number):
    if rank == 1 and number == 3:
        raise RuntimeError("out of memory")

attempt("lost", folder / "c.zarr", Colours(fail), batch_size=1)
"""


@pytest.mark.slow
def test_the_processes_of_torchrun_leave_the_bytes_of_one(tmp_path):
    for name in "abc":
        stored(tmp_path / f"{name}.zarr", seed=ord(name))
    whole = {name: stored(tmp_path / "alone" / f"{name}.zarr", seed=ord(name)) for name in "abc"}
    for path in whole.values():
        sp.pp.encode_patches(path, Colours(), **ONE)
    own = stained(tmp_path / "ours.zarr")
    coloured = [stained(folder / "theirs.zarr", THEIRS, PALE) for folder in (tmp_path, tmp_path / "alone")]
    sp.pp.encode_patches(coloured[1], Colours(), colour="reinhard", colour_reference=own, **ONE)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run([*command, TESTS, str(tmp_path)], capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"patches {rank}.txt").read_text() for rank in (0, 1)] == ["32", "40"]
    for name in "ab":
        assert files(tmp_path / f"{name}.zarr") == files(whole[name])
    assert files(coloured[0]) == files(coloured[1])
    first, second = (json.loads((tmp_path / f"coloured {rank}.txt").read_text()) for rank in (0, 1))
    n = read_zarr(own)["table"].n_obs
    assert np.add(first, second).tolist() == [n, 0, n]  # the second call finds all, the third encodes again
    sdata = placed()
    sp.pp.encode_patches(sdata, Colours(), **ONE)
    for rank in (0, 1):
        np.testing.assert_array_equal(np.load(tmp_path / f"object {rank}.npy"), sdata["table"].obsm["X_colours"])
    said = {
        what: [(tmp_path / f"{what} {rank}.txt").read_text() for rank in (0, 1)] for what in ("other", "many", "lost")
    }
    assert all("differ in encoder_id: give all processes" in text for text in said["other"])
    assert all("devices=2 under torchrun" in text for text in said["many"])
    assert "rank 0 lost another process of this training or encoding" in said["lost"][0]
    assert said["lost"][1] == "RuntimeError: out of memory"
    encoder = Colours()  # what both had done is there
    sp.pp.encode_patches(tmp_path / "c.zarr", encoder, **ONE)
    assert encoder.patches < 36
    assert files(tmp_path / "c.zarr") == files(whole["c"])
    assert hidden(tmp_path) == []
