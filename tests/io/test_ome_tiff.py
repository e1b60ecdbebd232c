"""Images as pyramidal OME-TIFF: pixels, levels, sizes in µm, and files that are whole or not there."""

from __future__ import annotations

from xml.etree import ElementTree

import dask.array as da
import numpy as np
import pytest
import tifffile
from helpers.scans.wsi import plain_slide, pyramid, tissue
from helpers.whole_slides import slide_of
from spatialdata import SpatialData
from spatialdata.models import Image2DModel

import spade as sp
from spade.io._images.multiscale import multiscale
from spade.io._recorded.frames import image_arrays
from spade.io._recorded.scale import record_scale


def facts(path):
    """The attributes of the pixels in the OME-XML, and the names of the channels."""
    with tifffile.TiffFile(path) as tif:
        root = ElementTree.fromstring(tif.ome_metadata)  # noqa: S314
    space = {"ome": root.tag[1:].partition("}")[0]}
    pixels = root.find(".//ome:Pixels", space)
    return pixels.attrib, [one.get("Name") for one in pixels.findall("ome:Channel", space)]


def scores(shape=(2, 700, 1300)):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values[:, 100:300, 200:700] = np.nan
    image = Image2DModel.parse(values, dims=("c", "y", "x"), c_coords=["one", "two"][: len(values)])
    return SpatialData(images={"score": image}), values


def test_colours_come_back_through_read_wsi(tmp_path):
    sdata = slide_of(tissue(), key="he")
    record_scale(sdata, mpp={"he": 0.5})
    sp.io.write_ome_tiff(sdata, "he", tmp_path / "new" / "he.ome.tif")
    again = sp.io.read_wsi(tmp_path / "new" / "he.ome.tif")
    assert again.attrs["spade"]["mpp"] == {"he": 0.5}
    for one, other in zip(image_arrays(sdata["he"]), image_arrays(again["he"]), strict=True):
        np.testing.assert_array_equal(one, other)
    attributes, _ = facts(tmp_path / "new" / "he.ome.tif")
    assert (attributes["PhysicalSizeX"], attributes["PhysicalSizeYUnit"]) == ("0.5", "µm")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["he.ome.tif"]


def test_a_slide_is_written_from_its_own_levels(tmp_path):
    sdata = sp.io.read_wsi(plain_slide(tmp_path / "plain.tif", pyramid(factors=(1, 4))))
    sp.io.write_ome_tiff(sdata, "he", tmp_path / "he.ome.tif")
    again = sp.io.read_wsi(tmp_path / "he.ome.tif")
    assert again.attrs["spade"]["slides"]["he"]["levels"] == sdata.attrs["spade"]["slides"]["he"]["levels"]
    for one, other in zip(image_arrays(sdata["he"]), image_arrays(again["he"]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_numbers_keep_their_type_and_what_is_missing(tmp_path):
    sdata, values = scores()
    sp.io.write_ome_tiff(sdata, "score", tmp_path / "score.ome.tif", mpp=14)
    with tifffile.TiffFile(tmp_path / "score.ome.tif") as tif:
        (series,) = tif.series
        assert series.axes == "CYX"
        assert [level.shape for level in series.levels] == [(2, 700, 1300), (2, 350, 650)]
        np.testing.assert_array_equal(series.asarray(), values)
        np.testing.assert_array_equal(series.levels[1].asarray(), values[:, ::2, ::2])
    attributes, channels = facts(tmp_path / "score.ome.tif")
    assert (attributes["Type"], attributes["PhysicalSizeX"], channels) == ("float", "14.0", ["one", "two"])


def test_what_is_transparent_is_laid_on_white(tmp_path):
    picture = np.zeros((4, 60, 80), np.uint8)
    picture[:, 10:20] = np.array([200, 30, 40, 255])[:, None, None]
    sdata = SpatialData(images={"map": Image2DModel.parse(picture, dims=("c", "y", "x"), c_coords=[*"rgba"])})
    sp.io.write_ome_tiff(sdata, "map", tmp_path / "map.ome.tif", mpp=10)
    written = tifffile.imread(tmp_path / "map.ome.tif")
    assert written.shape == (60, 80, 3)
    assert (written[10:20] == (200, 30, 40)).all()
    assert (written[20:] == 255).all()


def test_a_lazy_image_of_one_level_gets_further_ones(tmp_path):
    def block(block_info):
        (y, *_), (x, *_) = block_info[None]["array-location"][1:]
        return np.full((3, 256, 256), (y // 256 + x // 256) % 255, np.uint8)

    sides, empty = ((3,), (256,) * 6, (256,) * 9), np.empty((0, 0, 0), np.uint8)
    lazy = da.map_blocks(block, chunks=sides, dtype=np.uint8, meta=empty)
    sdata = SpatialData(images={"he": multiscale([lazy])})
    sp.io.write_ome_tiff(sdata, "he", tmp_path / "he.ome.tif", mpp=0.5)
    with tifffile.TiffFile(tmp_path / "he.ome.tif") as tif:
        levels = [np.moveaxis(level.asarray(), -1, 0) for level in tif.series[0].levels]
    assert [level.shape for level in levels] == [(3, 1536, 2304), (3, 768, 1152), (3, 384, 576)]
    for step, level in zip((1, 2, 4), levels, strict=True):
        np.testing.assert_array_equal(level, lazy[:, ::step, ::step])


def test_what_is_wrong_is_said_and_nothing_is_left(tmp_path, monkeypatch):
    sdata, _ = scores()
    with pytest.raises(ValueError, match=r"microns per pixel of images\['score'\] are not known: pass mpp="):
        sp.io.write_ome_tiff(sdata, "score", tmp_path / "a.ome.tif")
    record_scale(sdata, mpp={"score": 14.0})
    with pytest.raises(ValueError, match=r"mpp=7 contradicts the 14 µm/px recorded for images\['score'\]"):
        sp.io.write_ome_tiff(sdata, "score", tmp_path / "a.ome.tif", mpp=7)
    with pytest.raises(KeyError, match="image_key='he' is not there; images: 'score'"):
        sp.io.write_ome_tiff(sdata, "he", tmp_path / "a.ome.tif")
    with pytest.raises(ValueError, match=r"expected a name that ends in \.ome\.tif"):
        sp.io.write_ome_tiff(sdata, "score", tmp_path / "a.png")
    (tmp_path / "there.ome.tif").write_text("mine")
    with pytest.raises(FileExistsError, match="Pass overwrite=True"):
        sp.io.write_ome_tiff(sdata, "score", tmp_path / "there.ome.tif")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        sp.io.write_ome_tiff(sdata, "score", tmp_path / "there.ome.tif", overwrite=True)
    assert (tmp_path / "there.ome.tif").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["there.ome.tif"]
