"""Patches by row: the same pixels from images, a file and memory, in any order, by any number of threads."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.sections import SIDE, circles, pixels, square_lattice, table, tiny, warns_here

import spade as sp
from spade._samples.encode import placed_sections
from spade._samples.open import iter_samples
from spade.core.patches.sources import GivenPatches, LivePatches, MappedPatches, SectionPatches, batches, write_patches
from spade.core.patches.tiles import Level, iter_patches

PX = 20


def level(image, chunk, downsample=(1.0, 1.0), log=None, name=0):
    def read(y0, y1, x0, x1):
        if log is not None:
            log.append((name, y0, x0))
        return image[:, y0:y1, x0:x1].copy()

    edges = [np.append(np.arange(0, n, chunk), n) for n in image.shape[1:]]
    return Level(read, *edges, downsample)


def section(seed, n, px_per_patch=PX, chunk=64, shape=(3, 200, 260), log=None, downsamples=(1,)):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    levels = [level(image[:, ::d, ::d], chunk, (float(d), float(d)), log, seed) for d in downsamples]
    return SectionPatches(levels, rng.uniform(0, 1, (n, 2)) * shape[1:], px_per_patch)


def single_pixels(seed, n, log):
    """A section whose patches are one pixel each, so that each needs one chunk."""
    placed = section(seed, n, 1.0, log=log)
    return SectionPatches(placed.levels, np.floor(placed.centres) + 0.5, 1.0)


def cohort():
    """Sections of another size, chunking, scale and pyramid each, one of them without patches."""
    return [section(0, 30), section(1, 0), section(2, 17, 33.3, chunk=50), section(3, 25, 90.0, downsamples=(1, 2, 4))]


def expected(sections, n_px=PX):
    parts = []
    for placed in sections:
        part = np.zeros((len(placed.centres), n_px, n_px, 3), np.uint8)
        for index, patches in iter_patches(placed.levels, placed.centres, placed.px_per_patch, n_px, 7):
            part[index] = patches
        parts.append(part)
    return np.concatenate(parts)


def numbered(n=40):
    """Patches that say which row they are."""
    return GivenPatches(np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 2, 2, 3)).copy())


class Slow:
    """Patches whose reading is watched, and fails at one row."""

    n_px = 2

    def __init__(self, broken=None):
        self.inner, self.broken, self.lock = numbered(), broken, threading.Lock()
        self.asked = 0

    def __len__(self):
        return len(self.inner)

    def take(self, rows):
        with self.lock:
            self.asked += 1
        time.sleep(0.002)
        if self.broken in rows:
            raise OSError("the disk is gone")
        return self.inner.take(rows)


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("patches")]


# --- live


def test_rows_of_several_sections_are_the_patches_that_are_read_in_chunk_order():
    sections = cohort()
    source = LivePatches(sections, PX)
    assert (len(source), source.n_px) == (72, PX)
    rows = np.random.default_rng(5).permutation(72)
    found = source.take(rows)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected(sections)[rows])


def test_rows_may_come_twice_or_not_at_all():
    source = LivePatches(cohort(), PX)
    twice = source.take(np.array([50, 3, 50]))
    np.testing.assert_array_equal(twice, expected(cohort())[[50, 3, 50]])
    assert source.take(np.array([], dtype=np.int64)).shape == (0, PX, PX, 3)


def test_within_a_batch_every_chunk_is_read_once_even_if_one_chunk_fills_the_cache():
    log = []
    source = LivePatches([single_pixels(seed, 60, log) for seed in range(2)], 1, max_bytes=1)
    source.take(np.random.default_rng(1).permutation(120))
    assert len(log) == len(set(log)) > 20


def test_chunks_are_kept_between_batches():
    log = []
    source = LivePatches([section(0, 60, log=log)], PX)
    for _ in range(3):
        source.take(np.random.default_rng(1).permutation(60))
    assert len(log) == len(set(log))


def test_all_sections_and_threads_share_one_bounded_cache():
    chunk = 3 * 64 * 64
    source = LivePatches([section(seed, 20) for seed in range(8)], PX, max_bytes=5 * chunk)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(source.take, np.random.default_rng(0).permutation(160).reshape(16, 10)))
    shared = source._caches[0].shared
    assert all(cache.shared is shared and not cache.chunks for cache in source._caches)
    assert shared.bytes == sum(block.nbytes for block in shared.chunks.values()) <= 5 * chunk


def test_threads_read_side_by_side_and_right():
    source, all_ = LivePatches(cohort(), PX, max_bytes=40_000), expected(cohort())
    draws = [np.random.default_rng(seed).integers(0, 72, 30) for seed in range(24)]
    with ThreadPoolExecutor(6) as pool:
        for rows, found in zip(draws, pool.map(source.take, draws), strict=True):
            np.testing.assert_array_equal(found, all_[rows])


def test_a_chunk_that_is_being_read_holds_nobody_up():
    meet = threading.Barrier(2, timeout=10)
    slow, other = section(0, 1), section(1, 1)
    for placed in (slow, other):
        inner = placed.levels[0]

        def read(*window, inner=inner):
            if not passed.is_set():
                meet.wait()  # passes only if both sections are being read at once
                passed.set()
            return inner.read(*window)

        placed.levels[0] = Level(read, inner.y_edges, inner.x_edges)
    passed = threading.Event()
    source = LivePatches([slow, other], PX)
    with ThreadPoolExecutor(2) as pool:
        for found, row in zip(pool.map(source.take, np.array([[0], [1]])), (0, 1), strict=True):
            np.testing.assert_array_equal(found, expected([slow, other])[[row]])
    assert passed.is_set()


def test_a_chunk_read_by_two_at_once_counts_once():
    meet, placed = threading.Barrier(2, timeout=10), section(0, 1, chunk=1000)
    inner = placed.levels[0]

    def read(*window):
        meet.wait()
        return inner.read(*window)

    placed.levels[0] = Level(read, inner.y_edges, inner.x_edges)
    source = LivePatches([placed], PX)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(source.take, np.array([[0], [0]]))
    np.testing.assert_array_equal(one, other)
    shared = source._caches[0].shared
    assert shared.bytes == sum(block.nbytes for block in shared.chunks.values()) == 3 * 200 * 260


def test_there_must_be_patches():
    with pytest.raises(ValueError, match=r"sections: no patch in any of them, number of sections 1\."):
        LivePatches([section(1, 0)], PX)


# --- written


def test_the_file_holds_every_row_whatever_the_order_of_reading(tmp_path):
    source, told = LivePatches(cohort(), PX), []
    mapped = write_patches(tmp_path / "patches.npy", source, told.append, batch=16)
    assert told == [16, 16, 16, 16, 8]
    assert (len(mapped), mapped.n_px) == (72, PX)
    rows = np.random.default_rng(2).permutation(72)
    np.testing.assert_array_equal(mapped.take(rows), expected(cohort())[rows])
    np.testing.assert_array_equal(np.load(tmp_path / "patches.npy"), expected(cohort()))
    again = MappedPatches(tmp_path / "patches.npy")
    np.testing.assert_array_equal(again.take(np.array([71, 0])), expected(cohort())[[71, 0]])
    assert type(again.take(rows)) is np.ndarray
    assert again.take(rows).flags.writeable


def test_writing_reads_every_chunk_once_and_never_much_at_a_time(tmp_path):
    log = []
    source = LivePatches([single_pixels(seed, 50, log) for seed in range(3)], 1, max_bytes=1)
    most, take = [], source.take
    source.take = lambda rows: most.append(len(rows)) or take(rows)
    write_patches(tmp_path / "patches.npy", source, batch=8)
    assert max(most) == 8
    assert len(log) == len(set(log)) > 30


def test_a_file_that_was_not_finished_is_not_there(tmp_path):
    path = tmp_path / "patches.npy"
    source = LivePatches(cohort(), PX)
    write_patches(path, source)
    before = path.read_bytes()

    def stop(_):
        raise KeyboardInterrupt

    for file in (path, tmp_path / "new.npy"):
        with pytest.raises(KeyboardInterrupt):
            write_patches(file, source, stop)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["patches.npy"]


def test_room_is_looked_for_first(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    source = LivePatches(cohort(), PX)
    monkeypatch.setattr(source, "take", lambda rows: pytest.fail("nothing should be read"))
    with pytest.raises(
        OSError, match=r"72 patches of 20×20 pixels take 8\.64e-05 GB, but only 1e-06 GB are free.*patches\.npy"
    ):
        write_patches(tmp_path / "patches.npy", source)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw[:-1],
        lambda raw: raw[:100],
        lambda raw: b"",
        lambda raw: b"PK" + raw[2:],
        lambda raw: raw.replace(b"'|u1'", b"'|i1'"),
        lambda raw: raw.replace(b"'|u1'", b"'|u1("),
        lambda raw: raw.replace(b"}", b" "),
        lambda raw: raw.replace(b"(72, 20, 20, 3)", b"(72, 20, 60, 1)"),
        lambda raw: raw.replace(b"(72, 20, 20, 3)", b"(72, 20, 60)   "),
    ],
    ids=["one byte short", "in the header", "empty", "no magic", "type", "syntax", "open bracket", "sides", "axes"],
)
def test_a_damaged_file_is_to_be_deleted(tmp_path, spoil):
    path = tmp_path / "patches.npy"
    write_patches(path, LivePatches(cohort(), PX))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=r"patches\.npy is not a file of patches .*Delete it"):
        MappedPatches(path)


def test_a_file_that_is_not_there_is_not_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        MappedPatches(tmp_path / "patches.npy")


@pytest.mark.parametrize("wrong", [np.zeros((3, 4, 4, 3)), np.zeros((3, 3, 4, 4), np.uint8), np.zeros((4, 4, 3), "u1")])
def test_given_patches_are_checked(wrong):
    with pytest.raises(ValueError, match=r"patches: got .*; expected uint8 \(n, px, px, 3\)"):
        GivenPatches(wrong)


# --- batches


@pytest.mark.parametrize("n_workers", [0, 1, 3])
def test_batches_come_in_order(n_workers):
    rows = [np.random.default_rng(seed).permutation(40)[: 1 + seed % 5] for seed in range(25)]
    found = list(batches(Slow(), iter(rows), n_workers))
    assert len(found) == 25
    for some, batch in zip(rows, found, strict=True):
        np.testing.assert_array_equal(batch[:, 0, 0, 0], some)
    assert not list(batches(Slow(), [], n_workers))
    assert not reading_threads()


@pytest.mark.parametrize("n_workers", [0, 1, 3])
def test_reading_ahead_is_bounded(n_workers):
    source, drawn = Slow(), []
    rows = (drawn.append(i) or np.array([i]) for i in range(40))
    for taken, _ in enumerate(batches(source, rows, n_workers), start=1):
        assert taken <= len(drawn) <= taken + n_workers
        assert source.asked <= taken + n_workers


@pytest.mark.parametrize("n_workers", [0, 1, 3])
def test_an_error_comes_in_place_of_its_batch(n_workers):
    found = batches(Slow(broken=7), (np.array([i]) for i in range(40)), n_workers)
    assert [int(next(found)[0, 0, 0, 0]) for _ in range(7)] == list(range(7))
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)
    assert not reading_threads()


def test_who_stops_early_leaves_no_thread_and_no_work():
    source = Slow()
    found = batches(source, (np.array([i]) for i in range(40)), 3)
    next(found)
    assert reading_threads()
    found.close()
    assert not reading_threads()
    assert source.asked <= 4


def test_batches_of_images_and_of_their_file_are_the_same(tmp_path):
    live = LivePatches(cohort(), PX)
    mapped = write_patches(tmp_path / "patches.npy", live)
    rows = list(np.random.default_rng(0).permutation(72).reshape(9, 8))
    for one, other in zip(batches(live, rows, 2), batches(mapped, rows, 2), strict=True):
        np.testing.assert_array_equal(one, other)


# --- of a sample


def test_a_sample_gives_the_rows_that_have_patches_and_where_these_lie():
    ids = [f"s{i:02d}" for i in range(12)]
    far = square_lattice(12)
    far[[2, 7]] += 2 * SIDE
    sdata = tiny(12)
    sdata.shapes["far"], sdata.shapes["bare"] = circles(far), circles(square_lattice(12))
    sdata.tables["table"] = table(ids * 3, region=["bare"] * 12 + ["spots"] * 12 + ["far"] * 12)
    sp.pp.patches(sdata, shapes_key="spots", size_um=PX, size_px=PX)
    with warns_here("2 of 36"):
        sp.pp.patches(sdata, shapes_key="far", size_um=PX, size_px=PX)
    (sample,) = iter_samples(sdata)
    every, some = np.arange(12), np.setdiff1d(np.arange(12), [2, 7])
    sections = placed_sections(sample, "patches")
    for (rows, placed), first, valid in zip(sections, (24, 12), (some, every), strict=True):
        np.testing.assert_array_equal(rows, first + valid)
        assert placed.px_per_patch == PX
        found = LivePatches([placed], PX).take(np.arange(len(rows)))
        for patch, (x, y) in zip(found, square_lattice(12)[valid].astype(int) - PX // 2, strict=True):
            np.testing.assert_array_equal(patch, pixels()[:, y : y + PX, x : x + PX].transpose(1, 2, 0))


def test_a_sample_without_patches_says_how_to_make_them():
    (sample,) = iter_samples(tiny(6))
    with pytest.raises(KeyError, match=r"patches_key='patches' is not there; patches: none"):
        placed_sections(sample, "patches")
