"""Slides are saved piece by piece: an interrupted call goes on, and ends in the same bytes."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers.large.encoding import hidden, readers
from helpers.scans.wsi import page, plain_slide, pyramid, tissue
from helpers.sections import circles, tiny
from spatialdata import read_zarr

import spade as sp
from spade._keys import REVISION
from spade.io._images.tiff import TiffLevel
from spade.io._slides.writing import SlidePieces

FOLDER = ".sample.zarr.spade-slides"
#: The levels of the slide have 3 × 4, 1 and 1 chunks.
N_CHUNKS, N_PIECES = 14, 5
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, limits and /proc")


def files(store):
    """The bytes of all files but the root's, which has the revision."""
    found = [file for file in store.rglob("*") if file.is_file() and file != store / "zarr.json"]
    return {str(file.relative_to(store)): file.read_bytes() for file in found}


def root(store):
    facts = json.loads((store / "zarr.json").read_text())
    facts["attributes"].pop(REVISION, None)
    return facts


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return plain_slide(tmp_path_factory.mktemp("slide") / "slide.tif")


@pytest.fixture(scope="module")
def whole(slide, tmp_path_factory):
    """The bytes of a store that was written without a disturbance."""
    path = tmp_path_factory.mktemp("whole") / "sample.zarr"
    sp.io.write(sp.io.read_wsi(slide), path)
    return files(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sample.zarr"


@pytest.fixture
def chunks(monkeypatch):
    """Counts the chunks that are read, one thread at a time, and calls ``then`` with the number before each."""

    class Chunks:
        n = 0

        def then(self, n):
            """Do nothing."""

    found, read = Chunks(), TiffLevel.__getitem__

    def counted(level, key):
        found.then(found.n)
        found.n += 1
        return read(level, key)

    monkeypatch.setattr("spade.io._slides.writing.n_cores", lambda: 1)
    monkeypatch.setattr(TiffLevel, "__getitem__", counted)
    return found


def interrupt(sdata, path, chunks, at, error=KeyboardInterrupt):
    def then(n):
        if n == at:
            raise error

    chunks.n, chunks.then = 0, then
    with pytest.raises(error):
        sp.io.write(sdata, path)
    chunks.n, chunks.then = 0, lambda n: None


def test_a_slide_is_saved_as_spatialdata_saves_it(slide, path, tmp_path):
    sdata = tiny()  # with an image of its own, shapes and a table
    for name in ("one", "other"):
        sdata.images[name] = sp.io.read_wsi(slide)["he"]
    sdata.write(tmp_path / "plain.zarr")
    sp.io.write(sdata, path)
    assert hidden(tmp_path) == []
    assert files(path) == files(tmp_path / "plain.zarr")
    assert root(path)["attributes"] == root(tmp_path / "plain.zarr")["attributes"]


@pytest.mark.realdata
def test_a_scanned_slide_is_saved_pixel_by_pixel(data_dir, path):
    slide = data_dir / "slides/CMU-1-Small-Region.svs"
    sp.io.write(sp.io.read_wsi(slide), path)
    np.testing.assert_array_equal(read_zarr(path)["he"], page(slide, 0))


def test_an_interrupted_call_goes_on_and_ends_in_the_same_bytes(slide, path, whole, chunks, caplog):
    caplog.set_level(logging.INFO, "spade")
    sdata = sp.io.read_wsi(slide)
    interrupt(sdata, path, chunks, at=6)  # in the second row of four chunks
    assert hidden(path.parent) == [FOLDER]
    assert not path.exists()
    assert readers() == []
    sp.io.write(sp.io.read_wsi(slide), path)
    assert f"sample.zarr: goes on with 1 of {N_PIECES} pieces of slides written" in caplog.text
    assert chunks.n == N_CHUNKS - 4
    assert files(path) == whole
    assert hidden(path.parent) == []


def test_a_call_that_wrote_no_piece_leaves_nothing(slide, path, chunks):
    interrupt(sp.io.read_wsi(slide), path, chunks, at=3)
    assert hidden(path.parent) == []


def test_a_damaged_tile_is_told_and_keeps_the_pieces(slide, path, chunks):
    interrupt(sp.io.read_wsi(slide), path, chunks, at=6, error=sp.io._files.damaged.DamagedFileError)
    assert hidden(path.parent) == [FOLDER]


def test_another_slide_of_the_same_name_begins_anew(slide, path, tmp_path, chunks, caplog):
    copy = Path(shutil.copy2(slide, tmp_path / "slide.tif"))
    interrupt(sp.io.read_wsi(copy), path, chunks, at=6)
    plain_slide(copy, pyramid(tissue(seed=1)))
    sdata = sp.io.read_wsi(copy)
    sp.io.write(sdata, path)
    assert "image 'he'" in caplog.text
    assert "begun anew, as it differs in size, time of change" in caplog.text
    assert chunks.n == N_CHUNKS
    np.testing.assert_array_equal(read_zarr(path)["he"]["scale0"]["image"], sdata["he"]["scale0"]["image"])
    assert hidden(tmp_path) == []


def cut(folder):
    chunk = folder / "he/s0/c/0/0/2"
    chunk.write_bytes(chunk.read_bytes()[:-5])


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        lambda folder: (folder / "he/s0/c/0/0/2").unlink(),
        lambda folder: (folder / "he/s0_000000.json").write_text("["),
        lambda folder: (folder / "he/slide.json").write_text("[]"),
        lambda folder: shutil.rmtree(folder / ".metadata.zarr"),
    ],
)
def test_a_piece_that_is_not_as_it_was_written_is_written_again(damage, slide, path, whole, chunks):
    interrupt(sp.io.read_wsi(slide), path, chunks, at=6)
    damage(path.parent / FOLDER)
    sp.io.write(sp.io.read_wsi(slide), path)
    assert files(path) == whole


def test_other_elements_and_coordinates_are_those_of_the_last_call(slide, path, chunks):
    interrupt(sp.io.read_wsi(slide), path, chunks, at=6)
    sdata = sp.io.read_wsi(slide)
    sdata.shapes["spots"] = circles(np.array([[5.0, 5.0]]))
    sdata.rename_coordinate_systems({"global": "slide"})
    sp.io.write(sdata, path)
    saved = read_zarr(path)
    assert len(saved["spots"]) == 1
    assert "slide" in saved.coordinate_systems
    assert chunks.n == N_CHUNKS - 4


def test_saving_something_else_there_removes_the_pieces(slide, path, chunks):
    interrupt(sp.io.read_wsi(slide), path, chunks, at=6)
    sdata = sp.io.read_wsi(slide)
    sdata.images["he"] = sdata["he"].map_over_datasets(lambda level: 255 - level)
    sdata.images["he"].attrs.update(sp.io.read_wsi(slide)["he"].attrs)
    expected = sdata["he"]["scale0"]["image"].to_numpy()
    sp.io.write(sdata, path)
    np.testing.assert_array_equal(read_zarr(path)["he"]["scale0"]["image"], expected)
    assert hidden(path.parent) == []


def test_of_two_writers_one_waits(slide, path, whole):
    threads = [threading.Thread(target=sp.io.write, args=(sp.io.read_wsi(slide), path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files(path) == whole
    assert hidden(path.parent) == []


@linux_only
def test_a_full_disk_leaves_the_old_store_and_the_call_goes_on(slide, path, whole, tmp_path):
    sp.io.write(sp.io.read_wsi(plain_slide(tmp_path / "old.tif", pyramid(tissue(300, 300), (1,)))), path)
    old = files(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"used up .*What was there before is unchanged\. Make room and run again"):
            sp.io.write(sp.io.read_wsi(slide), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(path) == old
    sp.io.write(sp.io.read_wsi(slide), path)
    assert files(path) == whole


def test_pieces_that_go_away_before_the_end_are_told(slide, path, monkeypatch):
    write = SlidePieces.write

    def written(pieces, sdata):
        write(pieces, sdata)
        (pieces.folder / "he/s1_000000.json").unlink()

    monkeypatch.setattr(SlidePieces, "write", written)
    with pytest.raises(FileNotFoundError, match=r"s1_000000.*vanished meanwhile"):
        sp.io.write(sp.io.read_wsi(slide), path)
    assert not path.exists()


KILLS = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
import spade as sp
from spade.io import _atomic
from spade.io._images.tiff import TiffLevel
import spatialdata, zarr, ome_zarr.writer, spade.io
region, rename, seen = TiffLevel.region, _atomic._flush, []

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def write(path, moment):
    sdata = sp.io.read_wsi(sys.argv[1])
    def counted(level, rows, columns):
        seen.append(0)
        return die() if len(seen) == moment else region(level, rows, columns)
    TiffLevel.region = counted
    if moment == "at the exchange":
        _atomic._flush = lambda path: die()
    sp.io.write(sdata, path)

for number, moment in enumerate([1, 6, 14, "at the exchange"]):
    path = f"{sys.argv[2]}/{number}/sample.zarr"
    os.makedirs(os.path.dirname(path))
    for moment, signalled in ((moment, 9), (None, 0)):
        child = os.fork()
        if not child:
            write(path, moment)
            os._exit(len(os.listdir(path)) == 0)
        assert os.waitpid(child, 0)[1] == signalled, (moment, signalled)
        if signalled:
            assert not os.path.exists(path)
            assert ".sample.zarr.spade-slides" in os.listdir(os.path.dirname(path))
"""


@linux_only
@pytest.mark.slow
def test_killed_calls_go_on_and_end_in_the_same_bytes(slide, tmp_path, whole):
    done = subprocess.run([sys.executable, "-c", KILLS, str(slide), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for number in range(4):
        assert files(tmp_path / str(number) / "sample.zarr") == whole
        assert hidden(tmp_path / str(number)) == []


MEMORY = """
import sys, warnings
warnings.simplefilter("ignore")
import spade as sp

def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) // 1024

sp.io.write(sp.io.read_wsi(sys.argv[1]), sys.argv[3] + "/first.zarr")
before = status("VmHWM")
sp.io.write(sp.io.read_wsi(sys.argv[2]), sys.argv[3] + "/large.zarr")
print(status("VmHWM") - before)
"""


@linux_only
@pytest.mark.slow
def test_memory_is_bounded_by_pieces(slide, tmp_path):
    levels = pyramid(np.tile(tissue(2000, 2000), (3, 3, 1)), (1, 8))  # 108 MB
    large = plain_slide(tmp_path / "large.tif", levels)
    program = [sys.executable, "-c", MEMORY, str(slide), str(large), str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 60
    assert os.path.isdir(tmp_path / "large.zarr")
