"""Outlines of tissue on slides: where they lie, what is said when there are none."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import shapely
from anndata import AnnData
from geopandas import GeoDataFrame
from helpers.patches import affine
from helpers.sections import assert_same, picture, place_by, tiny
from helpers.whole_slides import MPP, copied, disc, glass, pieces, slide_of, stain
from spatialdata import read_zarr
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import get_transformation

import spade as sp
from spade._samples.images import image_levels
from spade.pp._slides.outlines import covered_share, outlines

STAINS = ["DAPI", "PanCK", "CD45"]


@pytest.fixture(scope="module")
def _slide():
    return slide_of(pieces()[0])


@pytest.fixture
def slide(_slide):
    return copied(_slide)


def truth():
    """Circles in pixels, the larger first."""
    return [shapely.Point(400, 450).buffer(300), shapely.Point(1050, 600).buffer(250)]


def test_one_polygon_for_each_piece_in_the_frame_of_the_image(slide):
    place_by(slide["he"], affine(0.3, turn=10, shift=(5, 7)), "aligned")
    sp.pp.tissue(slide, mpp=MPP)
    found = slide["tissue"]
    ShapesModel.validate(found)
    assert found.geometry.is_valid.all()
    for polygon, circle in zip(found.geometry, truth(), strict=True):
        assert polygon.intersection(circle).area / polygon.union(circle).area > 0.95
    np.testing.assert_allclose(found["area_mm2"], found.geometry.area * MPP**2 / 1e6)
    of_image = get_transformation(slide["he"], get_all=True)
    assert get_transformation(found, get_all=True) == of_image
    record = slide.attrs["spade"]
    assert (record["tissue"]["function"], record["tissue"]["image"], record["mpp"]) == ("pp.tissue", "he", {"he": MPP})
    assert record["sample"] == "slide_1"


@pytest.mark.parametrize("scale_factors", [(), (2,), (4,)])
def test_any_pyramid_gives_nearly_the_same_outlines(slide, scale_factors):
    other = slide_of(pieces()[0], scale_factors=scale_factors)
    for one in (slide, other):
        sp.pp.tissue(one, mpp=MPP)
    for a, b in zip(slide["tissue"].geometry, other["tissue"].geometry, strict=True):
        assert a.intersection(b).area / a.union(b).area > 0.98


def test_only_the_nearest_level_is_read_and_chunk_by_chunk(monkeypatch):
    slide = slide_of(pieces()[0], scale_factors=(2, 2), chunks=(3, 128, 128))
    seen = []

    def watched(element):
        levels = image_levels(element)
        for level in levels:
            read = level.read

            def count(y0, y1, x0, x1, read=read, level=level):
                seen.append((max(level.downsample), (y1 - y0) * (x1 - x0)))
                return read(y0, y1, x0, x1)

            object.__setattr__(level, "read", count)
        return levels

    monkeypatch.setattr("spade.pp._slides.tissue.image_levels", watched)
    sp.pp.tissue(slide, mpp=MPP)
    assert {level for level, _ in seen} == {4}  # 8 µm/px
    assert sum(n for _, n in seen) == 250 * 350  # every chunk once


def test_a_slide_in_a_store_is_saved_and_replaced(slide, tmp_path):
    path = tmp_path / "slide_1.zarr"
    sp.io.write(slide, path)
    sp.pp.tissue(path, mpp=MPP)
    sp.pp.tissue(slide, mpp=MPP)
    assert_same(read_zarr(path), slide)
    sp.pp.tissue(path, min_area_mm2=0.9)  # the µm/px are known now
    again = read_zarr(path)
    assert len(again["tissue"]) == 1
    assert again.attrs["spade"]["tissue"]["min_area_mm2"] == 0.9


def test_holes_and_pieces_that_touch_at_a_corner():
    mask = np.zeros((40, 60), dtype=bool)
    mask[2:20, 2:30] = True
    mask[8:14, 8:14] = False
    mask[20:30, 30:50] = True
    found = outlines(mask)
    assert [round(shapely.area(one)) for one in found] == [18 * 28 - 36, 200]
    assert shapely.get_num_interior_rings(found).tolist() == [1, 0]
    assert shapely.is_valid(found).all()
    assert shapely.bounds(found[1]).tolist() == [30, 20, 50, 30]


def test_shares_of_tiles_are_exact_however_complex_the_outline():
    rng = np.random.default_rng(0)
    turn = np.sort(rng.uniform(0, 2 * np.pi, 3000))
    radius = rng.uniform(60, 100, len(turn))
    star = shapely.Polygon(100 + np.column_stack([np.cos(turn), np.sin(turn)]) * radius[:, None])
    areas = np.array([star, shapely.box(150, 150, 260, 230)], dtype=object)
    x, y = (axis.ravel() * 10.0 for axis in np.meshgrid(np.arange(27), np.arange(24)))
    squares = shapely.box(x, y, x + 15, y + 15)
    expected = shapely.area(shapely.intersection(squares, shapely.union_all(areas))) / 225
    np.testing.assert_allclose(covered_share(squares, areas), expected, atol=1e-6)


def test_bad_input_is_named(slide):
    with pytest.raises(ValueError, match=r"slide_1: the microns per pixel of images\['he'\] are not known.*Pass mpp="):
        sp.pp.tissue(slide)
    with pytest.raises(KeyError, match="image_key='x' is not there; images: 'he'"):
        sp.pp.tissue(slide, image_key="x", mpp=MPP)
    with pytest.raises(ValueError, match="mpp=0: expected a positive number of microns per pixel"):
        sp.pp.tissue(slide, mpp=0)
    empty = slide_of(glass(), name="bare")
    with pytest.raises(
        ValueError, match=r"bare: no tissue found on images\['he'\] .*no piece of 0.05 mm² has the colours"
    ):
        sp.pp.tissue(empty, mpp=MPP)
    assert not empty.shapes
    assert empty.attrs == {"spade": {"sample": "bare"}}


def test_fluorescence_is_refused():
    stains = tiny(images={"if": picture(c_coords=STAINS)}, name=None)
    with pytest.raises(
        ValueError, match=r"there is no 8-bit RGB image; images: 'if': 3 channels of uint8, named 'DAPI'"
    ):
        sp.pp.tissue(stains, mpp=MPP)
    dark = np.zeros((500, 500, 3), dtype=np.uint8)
    dark[..., 2] = np.where(disc(dark.shape, 250, 250, 150), 200, 5)
    with pytest.raises(ValueError, match=r"no tissue found.*median colour red 0, green 0, blue 5"):
        sp.pp.tissue(slide_of(dark), mpp=MPP)


def test_names_in_use_are_not_replaced(slide):
    drawn = ShapesModel.parse(GeoDataFrame(geometry=[shapely.box(0, 0, 9, 9)]))
    slide.shapes["tissue"] = drawn
    with pytest.raises(
        ValueError, match=r"key_added='tissue': shapes/tissue is there, and sp.pp.tissue did not write it"
    ):
        sp.pp.tissue(slide, mpp=MPP)
    with pytest.raises(ValueError, match="key_added='he': images/he is there"):
        sp.pp.tissue(slide, mpp=MPP, key_added="he")
    with pytest.raises(ValueError, match="key_added='sample': the name is in use"):
        sp.pp.tissue(slide, mpp=MPP, key_added="sample")
    sp.pp.tissue(slide, mpp=MPP, key_added="found")
    assert slide["tissue"].equals(drawn)
    assert len(slide["found"]) == 2


def test_the_image_of_several():
    sheet, _ = pieces()
    slide = slide_of(sheet)
    slide.images["label"] = slide_of(stain(glass(200, 300), np.ones((200, 300), dtype=bool)), key="label")["label"]
    with pytest.raises(ValueError, match=r"several images may show the slide, .*'he'.*'label'.*cover different areas"):
        sp.pp.tissue(slide, mpp=MPP)
    sp.pp.tissue(slide, image_key="he", mpp=MPP)
    assert len(slide["tissue"]) == 2


def test_slides_without_names_are_told_apart_by_their_images():
    slides = [slide_of(pieces(seed)[0], name=None) for seed in (0, 5)]
    sp.pp.tissue(slides, mpp=MPP)
    names = [slide.attrs["spade"]["sample"] for slide in slides]
    assert names[0] != names[1]
    with pytest.raises(TypeError, match="samples: got AnnData"):
        sp.pp.tissue(AnnData(np.zeros((2, 2))))


def test_µm_per_px_come_from_patches_of_spots_beside():
    sdata = tiny(images={"image": slide_of(pieces()[0])["he"]}, mpp=None)
    sp.pp.patches(sdata, mpp=MPP, size_um=80, size_px=40)
    sp.pp.tissue(sdata)
    assert len(sdata["tissue"]) == 2
    assert TableModel.ATTRS_KEY in sdata["table"].uns


@pytest.mark.parametrize("function", [sp.pp.tissue, sp.pp.tiles])
def test_a_stated_scale_that_contradicts_the_recorded_one_is_warned_of(slide, function):
    sp.pp.tissue(slide, mpp=MPP)  # records it
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="mpp=")
        function(slide, mpp=MPP * 1.01)
    with pytest.warns(UserWarning, match=rf"mpp={3 * MPP:.4g} is used for images\['he'\], of which .* are recorded"):
        function(slide, mpp=3 * MPP)
