"""An encoding of a store that was interrupted goes on with what is there, and ends in the same bytes."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.large.encoding import Colours, files, hidden, placed, readers, stored
from helpers.sections import tiny
from spatialdata import read_zarr

import spade as sp

#: One patch a batch, so 8 a piece: the 36 patches of a section are 5 pieces.
ONE = {"batch_size": 1}
FOLDER = ".sample.zarr.spade-encoding-X_colours"


def interrupt(number):
    if number == 20:  # in the third piece
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory):
    """A store as a run leaves it that was never disturbed."""
    path = stored(tmp_path_factory.mktemp("whole") / "sample.zarr")
    sp.pp.encode_patches(path, Colours(), **ONE)
    return path


@pytest.fixture(scope="module")
def whole(whole_store):
    """Its bytes."""
    return files(whole_store)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A folder with a store whose encoding was interrupted when two of five pieces were there."""
    path = stored(tmp_path_factory.mktemp("interrupted") / "sample.zarr")
    with pytest.raises(KeyboardInterrupt):
        sp.pp.encode_patches(path, Colours(interrupt), **ONE)
    return path.parent


@pytest.fixture
def path(tmp_path, interrupted):
    """That store, in a folder of its own."""
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    return tmp_path / "sample.zarr"


def pieces(path):
    return sorted(entry.name for entry in (path.parent / FOLDER).glob("*.npz"))


def test_an_interrupted_store_is_as_it_was_and_no_thread_is_left(path):
    assert hidden(path.parent) == [FOLDER]
    assert pieces(path) == ["features_000000.npz", "features_000001.npz"]
    assert readers() == []
    assert not read_zarr(path)["table"].obsm


def test_the_same_call_goes_on_and_ends_in_the_same_bytes(path, whole, caplog):
    caplog.set_level(logging.INFO, "spade")
    encoder = Colours()
    sp.pp.encode_patches(path, encoder, **ONE)
    assert encoder.patches == 36 - 16
    assert "goes on with 2 of 5 pieces encoded" in caplog.text
    assert files(path) == whole
    assert hidden(path.parent) == []


def test_a_path_and_an_object_get_the_same_features(path):
    sp.pp.encode_patches(path, Colours(), **ONE)
    sdata = placed()
    sp.pp.encode_patches(sdata, Colours(), **ONE)
    np.testing.assert_array_equal(read_zarr(path)["table"].obsm["X_colours"], sdata["table"].obsm["X_colours"])


PROGRAM = """
import os, signal, sys, warnings
sys.path.insert(0, sys.argv[2])
warnings.simplefilter("ignore")
import spade as sp
from helpers.large.encoding import Colours
sp.pp.encode_patches(sys.argv[1], Colours(lambda n: n == 20 and os.kill(os.getpid(), signal.SIGKILL)), batch_size=1)
"""


@pytest.mark.slow
def test_a_killed_process_loses_a_piece_at_most(tmp_path, whole):
    path = stored(tmp_path / "sample.zarr")
    tests = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path), tests], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    encoder = Colours()
    sp.pp.encode_patches(path, encoder, **ONE)
    assert encoder.patches == 36 - 16
    assert files(path) == whole
    assert hidden(path.parent) == []


def test_pieces_of_a_call_that_was_killed_after_saving_are_removed(path, whole, monkeypatch):
    def killed(pieces):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("spade._samples.encoding.pieces.StoredPieces.remove", killed)
        with pytest.raises(KeyboardInterrupt):
            sp.pp.encode_patches(path, Colours(), **ONE)
    assert hidden(path.parent) == [FOLDER]
    encoder = Colours()
    sp.pp.encode_patches(path, encoder, **ONE)
    assert encoder.patches == 0
    assert files(path) == whole
    assert hidden(path.parent) == []


# --- what is not continued


def new_image(path):
    """Another image of the same size and place."""
    sdata = read_zarr(path)
    other = tiny(images=None, seed=5)
    sdata.images["image"] = other.images["image"]
    from spade.io._store import replace_elements

    replace_elements(sdata, path, ["images/image"])


def other_chunk(path):
    """One file of the image is written again, as other programs do it."""
    file = max((path / "images" / "image").rglob("*"), key=lambda file: file.stat().st_size)
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))


def moved_patches(path):
    sp.pp.patches(path, size_um=40, size_px=32)


OTHER = {
    "encoder_id": lambda path: {"encoder": Colours(id="colours-2")},
    "dim": lambda path: {"encoder": Colours(dim=3)},
    "precision": lambda path: {"encoder": Colours(precision="bf16")},
    "batch_size, patches": lambda path: {"batch_size": 2},
    "image": lambda path: (new_image(path), {})[1],
    "image ": lambda path: (other_chunk(path), {})[1],
    "patches": lambda path: (moved_patches(path), {})[1],
}


@pytest.mark.parametrize("case", OTHER)
def test_what_belongs_to_something_else_is_replaced_and_logged(case, path, caplog):
    encoder = (options := {**ONE, "encoder": Colours()} | OTHER[case](path)).pop("encoder")
    sp.pp.encode_patches(path, encoder, **options)
    assert f"is not continued but begun anew, as it differs in {case.strip()}" in caplog.text
    assert encoder.patches == 36
    again = Colours(id=encoder.id, dim=encoder.dim)
    sp.pp.encode_patches(path, again, key_added="again", **options)
    obsm = read_zarr(path)["table"].obsm
    np.testing.assert_array_equal(obsm["X_colours"], obsm["again"])
    assert hidden(path.parent) == []


def test_other_elements_of_the_store_may_be_written_meanwhile(path, whole):
    sp.pp.split(path, block_um=40)
    sp.pp.encode_patches(path, "texture")
    encoder = Colours()
    sp.pp.encode_patches(path, encoder, **ONE)
    assert encoder.patches == 36 - 16
    assert files(path) == whole


def cut_off(file):
    file.write_bytes(file.read_bytes()[:-50])


def changed_value(file):
    with np.load(file) as stored:
        arrays = dict(stored)
    arrays["features"][3, 2] += 1
    np.savez(file, **arrays)


def piece_of_another_place(file):
    shutil.copy(file.with_name("features_000000.npz"), file)


def emptied(file):
    file.write_bytes(b"")


@pytest.mark.parametrize("spoil", [cut_off, changed_value, piece_of_another_place, emptied])
def test_a_damaged_piece_is_encoded_again(spoil, path, whole, caplog):
    spoil(path.parent / FOLDER / "features_000001.npz")
    encoder = Colours()
    sp.pp.encode_patches(path, encoder, **ONE)
    assert encoder.patches == 36 - 8
    assert "encoded again" in caplog.text
    assert files(path) == whole


@pytest.mark.parametrize("text", ["", "[]", "{", None])
def test_a_folder_of_nothing_known_is_replaced(text, path, whole, caplog):
    settings = path.parent / FOLDER / "training.json"
    settings.unlink() if text is None else settings.write_text(text)
    encoder = Colours()
    sp.pp.encode_patches(path, encoder, **ONE)
    assert encoder.patches == 36
    assert "what it belongs to, which cannot be read" in caplog.text
    assert files(path) == whole


# --- beside the store


def test_a_leftover_does_not_disturb_reading_and_writing(path):
    sdata = read_zarr(path)
    sp.io.write(sdata, path)
    assert hidden(path.parent) == [FOLDER]
    encoder = Colours()
    sp.pp.encode_patches(path, encoder, **ONE)
    assert encoder.patches == 36  # the image was written anew
    assert hidden(path.parent) == []


def test_a_wrong_encoder_fails_at_its_first_batch_and_leaves_nothing(tmp_path):
    path = stored(tmp_path / "sample.zarr")
    encoder = Colours()
    encoder.dim = 7
    with pytest.raises(ValueError, match=r"encoder 'colours' returned features of shape \(1, 6\)"):
        sp.pp.encode_patches(path, encoder, **ONE)
    assert encoder.batches == 1
    assert hidden(path.parent) == []
    assert readers() == []


def test_an_encoder_without_an_id_fails_before_the_store_is_opened(tmp_path, monkeypatch):
    path = stored(tmp_path / "sample.zarr")
    monkeypatch.setattr("spade._samples.open.read_store", lambda *args, **kwargs: pytest.fail("opened"))
    encoder = type("Own", (), {"name": "own", "dim": 3, "input_px": None, "encode": lambda *args: None})()
    with pytest.raises(TypeError, match="lacks id"):
        sp.pp.encode_patches(path, encoder)


def test_an_error_lets_others_write_the_store(path):
    import threading

    def fail(number):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory") as caught:
        sp.pp.encode_patches(path, Colours(fail), **ONE)
    thread = threading.Thread(target=lambda: sp.pp.split(path, block_um=40), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert caught.tb is not None


def test_a_full_disk_is_one_error_and_the_pieces_are_kept(path, whole, monkeypatch):
    import errno

    from spade.core import training_state

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(training_state.np, "savez", full)
        with pytest.raises(OSError, match=r"used up .*What was there before is unchanged\. Make room"):
            sp.pp.encode_patches(path, Colours(), **ONE)
    assert len(pieces(path)) == 2
    sp.pp.encode_patches(path, Colours(), **ONE)
    assert files(path) == whole


def test_an_error_of_a_thread_that_reads_is_raised_as_it_is(tmp_path, monkeypatch):
    from spade._samples import encode

    def iter_patches(levels, centres, *args):
        raise ZeroDivisionError("in a thread")

    monkeypatch.setattr(encode, "iter_patches", iter_patches)
    path = stored(tmp_path / "sample.zarr")
    with pytest.raises(ZeroDivisionError, match="in a thread"):
        sp.pp.encode_patches(path, Colours())
    assert readers() == []
    assert hidden(tmp_path) == []


def test_features_do_not_depend_on_the_number_of_readers(tmp_path, whole, monkeypatch):
    from spade._samples import encode

    monkeypatch.setattr(encode, "n_readers", lambda n=1: 3)
    monkeypatch.setattr("spade._samples.encoding.devices.n_readers", lambda n=1: 3)
    path = stored(tmp_path / "sample.zarr")
    sp.pp.encode_patches(path, Colours(), **ONE)
    assert files(path) == whole


# --- what is finished


@pytest.fixture
def finished(tmp_path, whole_store):
    """A store that is encoded, with the dates of its files."""
    return Path(shutil.copytree(whole_store, tmp_path / "finished.zarr"))


def test_a_finished_store_is_left_alone_and_logged(finished, caplog):
    caplog.set_level(logging.INFO, "spade")
    sp.pp.split(finished, block_um=40)
    dates = {file: file.stat().st_mtime_ns for file in finished.rglob("*")}
    sp.pp.encode_patches([finished], encoder := Colours(), **ONE)
    assert encoder.patches == 0
    assert dates == {file: file.stat().st_mtime_ns for file in finished.rglob("*")}
    assert "obsm['X_colours'] is there; overwrite=True encodes it again" in caplog.text


def test_of_many_stores_an_interrupted_call_leaves_those_that_were_finished(finished, path):
    sp.pp.encode_patches([finished, path], encoder := Colours(), **ONE)
    assert encoder.patches == 36 - 16


def other_values(path):
    """Somebody puts features of his own under the key."""
    sdata = read_zarr(path)
    sdata["table"].obsm["X_colours"] = sdata["table"].obsm["X_colours"] + 1
    sp.io.write(sdata, path)


def no_values(path):
    sdata = read_zarr(path)
    del sdata["table"].obsm["X_colours"]
    sp.io.write(sdata, path)


AGAIN = OTHER | {
    "values": lambda path: (other_values(path), {})[1],
    "no values": lambda path: (no_values(path), {})[1],
    "overwrite": lambda path: {"overwrite": True},
}


@pytest.mark.parametrize("case", AGAIN)
def test_a_finished_store_that_differs_is_encoded_again(case, finished):
    encoder = (options := {**ONE, "encoder": Colours()} | AGAIN[case](finished)).pop("encoder")
    sp.pp.encode_patches(finished, encoder, **options)
    assert encoder.patches == 36
    sp.pp.encode_patches(finished, encoder, **options | {"overwrite": False})
    assert encoder.patches == 36
