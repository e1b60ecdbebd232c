"""How often the tiles of a slide are decoded: once for each look at it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import tifffile
from helpers.scans.wsi import MPP, plain_slide, tissue
from helpers.whole_slides import Means

import spade as sp
from spade.io._images import overview
from spade.io._images.tiff import TiffLevel


@pytest.fixture
def decoded(monkeypatch):
    """Count how often every tile of every level is decoded."""
    counts, decode = Counter(), TiffLevel._tile

    def count(level, index):
        counts[level.page, index] += 1
        return decode(level, index)

    monkeypatch.setattr(TiffLevel, "_tile", count)
    return counts


def strips(path):
    """A slide of one level in strips, as some converters write it."""
    scale = {"resolution": (10_000 / MPP,) * 2, "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, tissue(), photometric="rgb", rowsperstrip=16, compression="jpeg", metadata=None, **scale)
    return path


def looks(path, decoded):
    """Open a slide, find tissue, lay tiles and encode them; yield after each, and forget the counts."""
    sdata = sp.io.read_wsi(path)
    yield "opening"
    decoded.clear()
    sp.pp.tissue(sdata, min_area_mm2=0)
    yield "tissue"
    decoded.clear()
    sp.pp.tiles(sdata, size_um=40.0, size_px=100, min_tissue=0.1)
    yield "tiles"
    decoded.clear()
    sp.pp.encode_patches(sdata, Means())
    yield "patches"


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", ["tiles", "strips"])
def test_a_slide_without_a_pyramid_is_decoded_once_at_every_look(kind, large, tmp_path, decoded, monkeypatch):
    if large:  # then opening looks at some of its tiles alone
        monkeypatch.setattr(overview, "MOST_PIXELS", 1000)
        monkeypatch.setattr(overview, "WINDOWS", 3)
    path = tmp_path / "slide.tif"
    path = plain_slide(path, [tissue()]) if kind == "tiles" else strips(path)
    n = {"tiles": 5 * 7, "strips": 75}[kind]  # the last three rows of pixels are less than one of the tissue's
    for look in looks(path, decoded):
        assert set(decoded.values()) <= {1}, look
        wanted = {"opening": {"tiles": 9, "strips": 3}[kind] if large else len(decoded), "tissue": n, "tiles": 0}
        assert len(decoded) == wanted.get(look, len(decoded)), look
    assert decoded


@pytest.mark.realdata
def test_the_region_of_a_real_slide_is_decoded_once_at_every_look(data_dir, decoded):
    for look in looks(data_dir / "slides" / "CMU-1-Small-Region.svs", decoded):
        assert set(decoded.values()) <= {1}, look
        if look == "tissue":
            assert len(decoded) == int(np.ceil(2967 / 240)) * int(np.ceil(2220 / 240))
