"""Patch reading: the right pixels at the right resolution, whatever the chunks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spade.core.patches.tiles import (
    ChunkCache,
    Level,
    choose_level,
    chunk_order,
    iter_patches,
    mirror,
    read_patch,
    show_anything,
)


def level(image, chunk=64, downsample=(1.0, 1.0), log=None):
    def read(y0, y1, x0, x1):
        if log is not None:
            log.append((y0, x0))
        return image[:, y0:y1, x0:x1]

    edges = [np.append(np.arange(0, n, chunk), n) for n in image.shape[1:]]
    return Level(read, *edges, downsample)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (3, 300, 260), dtype=np.uint8)


@pytest.mark.parametrize("chunk", [32, 64, 1000])
def test_patches_at_the_image_resolution_are_the_pixels_themselves(image, chunk):
    centres = np.array([[100.0, 90.0], [32, 32], [250.4, 200.6]])
    for index, patches in iter_patches([level(image, chunk)], centres, 48, 48, batch_size=2):
        for i, patch in zip(index, patches, strict=True):
            y, x = np.round(centres[i] - 24).astype(int)
            np.testing.assert_array_equal(patch, image[:, y : y + 48, x : x + 48].transpose(1, 2, 0))


def test_order_and_chunks_do_not_change_a_patch(image):
    rng = np.random.default_rng(1)
    centres = rng.uniform(0, 260, size=(40, 2))

    def collect(chunk, batch):
        out = np.zeros((40, 20, 20, 3), dtype=np.uint8)
        for index, patches in iter_patches([level(image, chunk)], centres, 33.3, 20, batch):
            out[index] = patches
        return out

    np.testing.assert_array_equal(collect(32, 7), collect(999, 40))


def test_each_chunk_is_read_once(image):
    log = []
    centres = np.random.default_rng(2).uniform(0, 260, size=(100, 2))
    list(iter_patches([level(image, 64, log=log)], centres, 40, 40, 16))
    assert len(log) == len(set(log))


def test_chunks_of_a_wide_image_are_seldom_read_twice(image):
    log, n_bytes = [], 3 * 6 * (3 * 20 * 20)  # three rows of six chunks, of an image of thirteen columns
    one = level(image, 20, log=log)
    centres = np.stack(np.meshgrid(np.arange(10, 290, 7.0), np.arange(10, 250, 7.0), indexing="ij"), -1).reshape(-1, 2)
    cache = ChunkCache(one, n_bytes)
    for i in np.lexsort(chunk_order(one, centres, n_bytes)):
        read_patch(cache, centres[i], (20, 20), 20)
    assert len(set(log)) == 15 * 13
    assert len(log) <= len(set(log)) + 3 * 2 * 15  # at the borders of bands alone


def test_the_cache_is_bounded(image):
    cache = ChunkCache(level(image, 50), max_bytes=3 * 50 * 50 * 4)
    for y in range(0, 250, 50):
        cache.window(y, y + 50, 0, 250)
    assert cache.bytes <= 3 * 50 * 50 * 4
    assert len(cache.chunks) <= 4


def test_beyond_the_border_the_image_is_mirrored(image):
    patch = read_patch(ChunkCache(level(image)), np.array([5.0, 5.0]), (20, 20), 20)
    padded = np.pad(image, ((0, 0), (5, 0), (5, 0)), mode="symmetric")[:, :20, :20]
    np.testing.assert_array_equal(patch, padded.transpose(1, 2, 0))
    np.testing.assert_array_equal(mirror(np.array([-1, -2, 0, 4, 5, 6]), 0, 5), [0, 1, 0, 4, 4, 3])


def test_shrinking_averages_and_enlarging_interpolates():
    ramp = np.tile(np.arange(200, dtype=np.uint8), (3, 200, 1))
    small = read_patch(ChunkCache(level(ramp)), np.array([100.0, 100.0]), (80, 80), 20)
    np.testing.assert_allclose(small[10, :, 0], 60 + 4 * np.arange(20) + 1.5, atol=0.6)
    large = read_patch(ChunkCache(level(ramp)), np.array([100.0, 100.0]), (20, 20), 80)
    np.testing.assert_allclose(large[40, :, 0], 90 + (np.arange(80) + 0.5) / 4 - 0.5, atol=0.6)


@pytest.mark.parametrize("side", [33.3, 100, 160.25, 224.7, 290])
def test_resampling_equals_that_of_pillow_for_any_side_and_place(image, side):
    from PIL import Image

    whole = Image.fromarray(image.transpose(1, 2, 0))
    half = np.float32(side / 2)
    for y, x in ((150.0, 130.0), (149.3, 130.9)):
        box = (max(x - half, 0), max(y - half, 0), min(x + half, 260), min(y + half, 300))
        if (box[2] - box[0], box[3] - box[1]) != (2 * half, 2 * half):
            continue  # what lies beyond the border is mirrored here and left out there
        wanted = np.asarray(whole.resize((40, 40), Image.Resampling.BILINEAR, box=box), dtype=int)
        found = read_patch(ChunkCache(level(image)), np.array([y, x]), (2 * half, 2 * half), 40).astype(int)
        assert np.abs(found - wanted).max() <= 1  # Pillow rounds between the two axes


@pytest.mark.parametrize("side", [20.5, 40.25, 97.3, 131])
@pytest.mark.parametrize("centre", [(150.3, 120.8), (3.0, 255.5)])
def test_resampling_is_a_triangle_filter_over_the_mirrored_image(image, side, centre):
    n, pad = 24, 200
    padded = np.pad(image.astype(float), ((0, 0), (pad, pad), (pad, pad)), mode="symmetric")
    step = side / n
    filters = []
    for at, length in zip(centre, padded.shape[1:], strict=True):
        middles = at - side / 2 + (np.arange(n) + 0.5) * step
        apart = np.abs(np.arange(length) - pad + 0.5 - middles[:, None])
        weights = np.clip(1 - apart / max(1, step), 0, None)
        filters.append(weights / weights.sum(1, keepdims=True))
    wanted = np.einsum("iy,cyx,jx->ijc", filters[0], padded, filters[1])
    found = read_patch(ChunkCache(level(image)), np.array(centre), (side, side), n)
    assert np.abs(found - wanted).max() < 0.51


def test_what_is_transparent_is_read_chunk_by_chunk_once(image):
    log = []
    opacity = np.zeros((300, 260), np.uint8)
    opacity[120:, 90:] = 255

    def read(y0, y1, x0, x1):
        log.append((y0, x0))
        return opacity[y0:y1, x0:x1]

    centres = np.random.default_rng(3).uniform(0, 260, size=(100, 2))
    shown = show_anything([replace(level(image), opacity=read)], centres, 40, 40)
    assert len(log) == len(set(log))
    assert shown.tolist() == ((centres[:, 0] + 20 > 120) & (centres[:, 1] + 20 > 90)).tolist()
    assert 0 < shown.sum() < len(shown)


def test_the_coarsest_level_that_is_fine_enough_is_read(image):
    levels = [
        level(image),
        level(image[:, ::2, ::2], downsample=(2.0, 2.0)),
        level(image[:, ::4, ::4], downsample=(4.0, 4.0)),
    ]
    assert choose_level(levels, 224, 224) is levels[0]
    assert choose_level(levels, 450, 224) is levels[1]
    assert choose_level(levels, 2000, 224) is levels[2]
    assert choose_level(levels, 100, 224) is levels[0]
    ((_, patches),) = iter_patches(levels, np.array([[150.0, 120.0]]), 80, 40, 1)
    np.testing.assert_array_equal(patches[0], image[:, ::2, ::2][:, 55:95, 40:80].transpose(1, 2, 0))
