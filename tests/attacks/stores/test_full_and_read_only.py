"""Read-only stores, folders that go away and full disks: found early or told once, and the old state stays whole."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from helpers.sections import tiny
from spatialdata import read_zarr

import spade as sp
from spade.core import files
from spade.io._atomic import publish


@pytest.fixture
def path(tmp_path):
    sdata = tiny()
    sp.pp.patches(sdata, size_um=32, size_px=32)
    (tmp_path / "folder").mkdir()
    sp.io.write(sdata, tmp_path / "folder" / "sample.zarr")
    return tmp_path / "folder" / "sample.zarr"


class Counting:
    name, id, dim, input_px, mpp = "counting", "1", 3, None, None

    def __init__(self, then=lambda: None):
        self.calls, self.then = 0, then

    def encode(self, patches, mpp):
        self.calls += 1
        self.then()
        return patches.mean((1, 2))


def listed(folder):
    return sorted(str(entry.relative_to(folder)) for entry in folder.rglob("*"))


@pytest.mark.parametrize("which", ["the store", "its folder"])
def test_a_read_only_store_is_found_before_the_work(which, path):
    place = path if which == "the store" else path.parent
    place.chmod(0o555)
    encoder = Counting()
    try:
        with pytest.raises(PermissionError, match=r"sample\.zarr' is read-only: .*pass the object instead of its path"):
            sp.pp.encode_patches(path, encoder)
        with pytest.raises(PermissionError, match="read-only"):
            sp.pp.split(path, groupby="sample")
        with pytest.raises(PermissionError, match="read-only"):
            sp.io.write(read_zarr(path), path)
    finally:
        place.chmod(0o755)
    assert not encoder.calls


def test_the_second_of_two_stores_is_looked_at_before_the_first_is_encoded(path):
    other = path.with_name("other.zarr")
    shutil.copytree(path, other)
    other.chmod(0o555)
    encoder = Counting()
    with pytest.raises(PermissionError, match=r"other\.zarr' is read-only"):
        sp.pp.encode_patches([path, other], encoder)
    other.chmod(0o755)
    assert not encoder.calls


def test_a_read_only_file_system_is_told_in_the_same_words(path, monkeypatch):
    from spade.core import locks

    def opening(*args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(locks.os, "open", opening)
    with pytest.raises(PermissionError, match=r"sample\.zarr' is read-only: .*Read-only file system"):
        sp.pp.encode_patches(path, Counting())


def test_a_folder_that_goes_away_during_the_work(path):
    encoder = Counting(lambda: shutil.rmtree(path.parent, ignore_errors=True))
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        sp.pp.encode_patches(path, encoder)
    assert encoder.calls
    assert "sample.zarr" in str(caught.value)
    assert not path.parent.exists()


FULL = ["ENOSPC while arrays are written", "ENOSPC at the end", "EFBIG"]


@pytest.mark.parametrize("how", FULL)
@pytest.mark.parametrize("what", ["path", "object"])
def test_a_full_disk_leaves_the_old_store_and_one_error(how, what, path, monkeypatch):
    import resource

    from spade.io import _store

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before, old = listed(path.parent), read_zarr(path)
    sdata = read_zarr(path)
    sp.pp.encode_patches(sdata, Counting())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        if how == "ENOSPC at the end":
            patch.setattr(_store, "_consolidate", full)
        elif how == "EFBIG":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        else:
            patch.setattr("zarr.storage.LocalStore.set", full)
        try:
            with pytest.raises(OSError, match=r"used up .*What was there before is unchanged\. Make room"):
                sp.io.write(sdata, path) if what == "object" else sp.pp.split(path, block_um=40)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert listed(path.parent) == before
    assert read_zarr(path).attrs == old.attrs == sdata.attrs
    sp.io.write(sdata, path)
    assert "X_counting" in read_zarr(path)["table"].obsm


@pytest.mark.parametrize("old", [True, False], ids=["over an old model", "new"])
def test_a_full_disk_leaves_the_old_model(old, model, tmp_path):
    import resource

    if old:
        model.save(tmp_path / "model")
    before = listed(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"used up") as caught:
            model.save(tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ("What was there before is unchanged" in str(caught.value)) == old
    assert listed(tmp_path) == before


def test_a_part_of_a_killed_writer_goes_with_the_next_writing(tmp_path):
    for name in (".a.npy.123.part", ".b.npy.123.part", ".a.npy.lock"):
        (tmp_path / name).touch()
    files.write_atomically(tmp_path / "a.npy", lambda part: Path(part).write_bytes(b"1") and None)
    assert listed(tmp_path) == [".b.npy.123.part", "a.npy"]


def test_files_that_vanish_while_a_store_is_built_are_one_error(tmp_path):
    """zarr tells it as a KeyError of the array that it has just written."""

    def build(new):
        group = zarr.open_group(new, mode="w")
        group.create_array("codes", data=np.arange(3))
        shutil.rmtree(new / "codes")
        group["codes"]

    with pytest.raises(FileNotFoundError, match=r"be written: codes vanished meanwhile.*Nothing was"):
        publish(build, tmp_path / "sample.zarr")
    assert not listed(tmp_path)


def test_what_threads_still_write_after_an_error_is_removed_as_well(tmp_path):
    """zarr writes chunks side by side: others go on for a moment when one has failed."""

    def go_on(new):
        for i in range(30):
            new.mkdir(exist_ok=True)
            (new / f"chunk{i}").write_bytes(b"0")
            time.sleep(0.01)

    def build(new):
        threads.append(threading.Thread(target=go_on, args=(new,)))
        threads[0].start()
        raise OSError(errno.ENOSPC, "no space left on device")

    threads = []
    with pytest.raises(OSError, match="used up"):
        publish(build, tmp_path / "sample.zarr")
    threads[0].join()
    assert not listed(tmp_path)
