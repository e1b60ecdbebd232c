"""Two writers of one store: one waits for the other, or is told; nobody's key is lost in silence."""

from __future__ import annotations

import ast
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.sections import tiny
from spatialdata import read_zarr

import spade as sp
from spade._keys import REVISION
from spade.core.locks import TakenError, locked


@pytest.fixture
def path(tmp_path):
    sdata = tiny()
    sp.pp.patches(sdata, size_um=32, size_px=32)
    sp.pp.encode_patches(sdata)
    sp.io.write(sdata, tmp_path / "sample.zarr")
    return tmp_path / "sample.zarr"


def hidden(folder):
    return [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]


PROGRAM = """
import sys, warnings
warnings.simplefilter("ignore")
import spade as sp, spade.pp
print("ready", flush=True)
sys.stdin.readline()
sp.pp.smooth_expression(sys.argv[1], method="radius", radius_um=40, key_added=sys.argv[2])
"""


@pytest.mark.slow
def test_two_processes_that_smooth_at_once_both_keep_their_key(path):
    command = [sys.executable, "-c", PROGRAM, str(path)]
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, key], **pipe) for key in "ab"]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert {"a", "b"} <= set(read_zarr(path)["table"].layers)
    assert hidden(path.parent) == []


def test_threads_wait_for_each_other_as_well(path):
    errors = []

    def smooth(key):
        try:
            sp.pp.smooth_expression(path, method="radius", radius_um=40, key_added=key)
        except Exception as error:  # noqa: BLE001, reported below
            errors.append(error)

    threads = [threading.Thread(target=smooth, args=(key,)) for key in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {"a", "b", "c"} <= set(read_zarr(path)["table"].layers)


def test_of_two_objects_the_second_is_told_that_the_store_has_changed(path):
    a, b = read_zarr(path), read_zarr(path)
    sp.pp.spatial_context(a, use_rep="X_texture", radius_um=40, key_added="a")
    sp.io.write(a, path)
    sp.pp.spatial_context(b, use_rep="X_texture", radius_um=40, key_added="b")
    before = b.attrs[REVISION]
    with pytest.raises(
        ValueError, match=r"sample\.zarr': the store was saved by someone else after .*Read it again with"
    ):
        sp.io.write(b, path)
    assert b.attrs[REVISION] == before
    assert "a" in read_zarr(path)["table"].obsm
    sp.io.write(b, path.parent / "other.zarr")  # as the message says
    b.path = None
    sp.io.write(a, path)
    sp.io.write(b, path)  # on purpose
    assert "b" in read_zarr(path)["table"].obsm
    sp.io.write(b, path)  # and again: the object is now the newest


def test_an_object_in_memory_and_its_path(path):
    sdata = read_zarr(path)
    sp.pp.smooth_expression(path, method="radius", radius_um=40, key_added="a")
    with pytest.raises(ValueError, match="and what was saved would be lost"):
        sp.io.write(sdata, path)
    assert "a" in read_zarr(path)["table"].layers


def test_a_store_that_another_program_writes_meanwhile_is_not_overwritten(path, monkeypatch):
    from spade.pp import _smooth_expression as module

    def meanwhile(*args, **kwargs):
        other = read_zarr(path)
        other["table"].obs["new"] = 1.0
        other.delete_element_from_disk("table")
        other.write_element("table")
        return counts(*args, **kwargs)

    counts = module.read_counts
    monkeypatch.setattr(module, "read_counts", meanwhile)
    with pytest.raises(
        ValueError, match=r"was written by another program, or removed, while this function worked on it"
    ):
        sp.pp.smooth_expression(path, method="radius", radius_um=40, key_added="a")
    assert "new" in read_zarr(path)["table"].obs
    assert hidden(path.parent) == []


def test_an_error_in_the_middle_lets_others_write(path):
    with pytest.raises(KeyError, match="nothing") as caught:  # as a notebook keeps the last error, with all frames
        sp.pp.spatial_context(path, use_rep="nothing")
    done = threading.Event()

    def later():
        sp.pp.spatial_context(path, use_rep="X_texture", radius_um=40, key_added="a")
        done.set()

    thread = threading.Thread(target=later, daemon=True)
    thread.start()
    assert done.wait(60)
    assert hidden(path.parent) == []
    assert caught.tb is not None


def test_stores_are_opened_for_writing_in_the_head_of_a_loop_only():
    """A name for the samples would keep the lock after an error, as long as somebody keeps the error."""
    n_loops = 0
    for file in Path(sp.__file__).parent.rglob("*.py"):
        tree = ast.parse(file.read_text())
        calls = {
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and getattr(node.func, "id", "") == "iter_samples"
            and any(keyword.arg == "writes" for keyword in node.keywords)
        }
        heads = {node for loop in ast.walk(tree) if isinstance(loop, ast.For) for node in ast.walk(loop.iter)}
        assert calls <= heads, file
        n_loops += len(calls)
    assert n_loops > 12


def test_reading_does_not_wait(path):
    with locked(path.with_name(f".{path.name}.spade-lock")):
        thread = threading.Thread(target=lambda: sp.pp.select_genes(read_zarr(path)), daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()


def test_a_lock_is_for_one_thread_at_a_time_and_ends_with_a_killed_process(tmp_path):
    file = tmp_path / ".lock"
    with locked(file) as held, locked(file) as again:  # the same thread gets it again
        assert held
        assert again
        taken = []

        def other():
            try:
                with locked(file, wait=False):
                    taken.append(True)
            except TakenError:
                taken.append(False)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert taken == [False]
    assert not file.exists()
    program = f"import time, pathlib\nfrom spade.core.locks import locked\nwith locked(pathlib.Path({str(file)!r})):\n"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{program}    print('held', flush=True)\n    time.sleep(100)"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(TakenError), locked(file, wait=False):
        pass
    process.kill()
    process.wait()
    start = time.monotonic()
    with locked(file) as held:
        assert held
    assert time.monotonic() - start < 5
    assert not file.exists()


def test_without_locks_of_the_file_system_writing_goes_on_and_is_logged(path, monkeypatch, caplog):
    import errno

    from spade.core import locks

    def none(descriptor):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(locks, "_lock", none)
    (stray := path.with_name(f".{path.name}.spade-new-01234567")).mkdir()
    sp.pp.spatial_context(path, use_rep="X_texture", radius_um=40, key_added="a")
    assert "has no file locks" in caplog.text
    assert hidden(path.parent) == [stray.name]  # nobody knows whether its writer lives
    np.testing.assert_equal("a" in read_zarr(path)["table"].obsm, True)
