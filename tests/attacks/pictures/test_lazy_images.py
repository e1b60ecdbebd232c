"""Lazy images of which every chunk decodes the whole file, as spatialdata-io reads full-resolution images."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import dask
import dask.array as da
import numpy as np
import pytest
import tifffile
from dask_image.imread import imread
from helpers.sections import pixels, tiny
from spatialdata.models import Image2DModel
from xarray import DataArray

import spade as sp
from spade._samples import lazy
from spade._samples.images import image_levels
from spade.io._recorded.frames import image_arrays

CHUNKS = {"c": 3, "y": 64, "x": 64}


@pytest.fixture
def decoded(monkeypatch):
    """The number of times that a file was decoded."""
    import dask_image.imread as module

    calls = []
    read = module._read_frame

    def counted(*args, **kwargs):
        calls.append(args)
        return read(*args, **kwargs)

    monkeypatch.setattr(module, "_read_frame", counted)
    return calls


def from_file(path, scale_factors=(2, 2)):
    """An image as ``spatialdata_io.visium(fullres_image_file=...)`` makes it."""
    array = DataArray(imread(str(path)).squeeze(0).transpose(2, 0, 1), dims=("c", "y", "x"))
    return Image2DModel.parse(array, scale_factors=list(scale_factors), c_coords=[*"rgb"], chunks=CHUNKS)


@pytest.fixture
def file(tmp_path):
    tifffile.imwrite(tmp_path / "he.tif", pixels().transpose(1, 2, 0), photometric="rgb", compression="deflate")
    return tmp_path / "he.tif"


def in_memory(element):
    arrays = [np.asarray(array.data) for array in image_arrays(element)]
    return Image2DModel.parse(
        DataArray(arrays[0], dims=("c", "y", "x")), scale_factors=[2, 2], c_coords=[*"rgb"], chunks=CHUNKS
    )


@pytest.mark.parametrize(("size_um", "size_px"), [(40, 40), (80, 40)])
def test_a_file_is_decoded_once(file, decoded, size_um, size_px, caplog):
    lazy_image, plain_image = (
        tiny(images={"image": from_file(file)}),
        tiny(images={"image": in_memory(from_file(file))}),
    )
    for sdata in (lazy_image, plain_image):
        sp.pp.patches(sdata, size_um=size_um, size_px=size_px)
    decoded.clear()
    with caplog.at_level(logging.DEBUG, "spade"):
        sp.pp.encode_patches(lazy_image)
    assert len(decoded) == 1
    assert "computed once and held in memory" in caplog.text
    caplog.clear()
    sp.pp.encode_patches(plain_image)
    assert "computed once" not in caplog.text
    np.testing.assert_array_equal(lazy_image["table"].obsm["X_texture"], plain_image["table"].obsm["X_texture"])


def test_nothing_is_decoded_before_a_chunk_is_read(file, decoded):
    element = from_file(file)
    decoded.clear()
    levels = image_levels(element)
    assert not decoded
    np.testing.assert_array_equal(levels[0].read(30, 90, 50, 140), pixels()[:, 30:90, 50:140])
    for level in levels:
        level.read(0, 10, 0, 10)
    assert len(decoded) == 1  # by all levels together


@pytest.mark.parametrize("most", [10, 10**9])
def test_large_results_lie_in_a_file(file, monkeypatch, most, caplog):
    monkeypatch.setattr(lazy, "MOST_HELD", most)
    (level, *_) = image_levels(from_file(file))
    with caplog.at_level(logging.DEBUG, "spade"):
        np.testing.assert_array_equal(level.read(0, 400, 0, 400), pixels())
    assert ("in a temporary file" in caplog.text) == (most == 10)


def counted_image(shape=(3, 128, 128)):
    """A delayed image that counts its decodes."""
    calls = []

    @dask.delayed
    def decode():
        calls.append(1)
        return pixels(shape=shape)

    return da.from_delayed(decode(), shape, np.uint8).rechunk((3, 32, 32)), calls


def test_a_delayed_image_is_decoded_once():
    data, calls = counted_image()
    (level,) = image_levels(DataArray(data, dims=("c", "y", "x")))
    for y in range(0, 128, 32):
        level.read(y, y + 32, 0, 32)
    assert len(calls) == 1


def test_a_shared_reduction_is_computed_once():
    calls = []

    def counted(block):
        calls.append(1)
        return block

    data = da.from_array(pixels(shape=(3, 128, 128)), chunks=(3, 32, 32))
    most = data.map_blocks(counted, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8)).max(axis=(1, 2), keepdims=True)
    scaled = (data - da.minimum(data, most // 8)).astype(np.uint8)
    calls.clear()
    (level,) = image_levels(DataArray(scaled, dims=("c", "y", "x")))
    expected = np.asarray(scaled)
    n = len(calls)
    calls.clear()
    got = np.concatenate([level.read(y, y + 32, 0, 128) for y in range(0, 128, 32)], axis=1)
    np.testing.assert_array_equal(got, expected)
    assert len(calls) <= n


@pytest.mark.parametrize(
    "data",
    [
        da.from_array(pixels(), chunks=(3, 64, 64)),
        da.from_array(pixels(), chunks=-1),
        da.map_blocks(lambda block: 255 - block, da.from_array(pixels(), chunks=(3, 64, 64)), dtype=np.uint8),
    ],
    ids=["chunks", "one chunk", "mapped"],
)
def test_independent_chunks_stay_lazy(data, caplog):
    with caplog.at_level(logging.DEBUG, "spade"):
        (level,) = image_levels(DataArray(data, dims=("c", "y", "x")))
        np.testing.assert_array_equal(level.read(5, 99, 7, 250), np.asarray(data)[:, 5:99, 7:250])
    assert "computed once" not in caplog.text


def test_patches_of_training_are_decoded_once(file, decoded):
    sdata = tiny(images={"image": from_file(file)})
    sp.pp.patches(sdata, size_um=40, size_px=40)
    decoded.clear()
    from spade._samples.encode import placed_sections
    from spade._samples.open import iter_samples

    (sample,) = iter_samples(sdata)
    ((_, placed),) = placed_sections(sample, "patches")
    for level in placed.levels:
        level.read(0, 50, 0, 50)
        level.read(50, 100, 50, 100)
    assert len(decoded) == 1


def test_threads_decode_once():
    data, calls = counted_image()
    (level,) = image_levels(DataArray(data, dims=("c", "y", "x")))
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda y: level.read(y, y + 32, 0, 128), range(0, 128, 32)))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), pixels(shape=(3, 128, 128)))
    assert len(calls) == 1
