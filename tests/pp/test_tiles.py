"""A grid of tiles on tissue, with a table that annotates them."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from geopandas import GeoDataFrame
from helpers.patches import affine
from helpers.sections import assert_same, picture, pixels, place_by, tiny, warns_here
from helpers.whole_slides import MPP, Means, copied, glass, pieces, slide_of
from scipy import ndimage
from spatialdata import get_values, match_element_to_table, read_zarr
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import get_transformation

import spade as sp

SIDE = 56  # px of 2 µm in a tile of 112 µm


def lay(samples, **options):
    """Lay tiles at the resolution of the image."""
    sp.pp.tiles(samples, **{"size_px": SIDE, **options})


@pytest.fixture(scope="module")
def _slide():
    sdata = slide_of(pieces()[0])
    sp.pp.tissue(sdata, mpp=MPP)
    return sdata


@pytest.fixture
def slide(_slide):
    return copied(_slide)


def truth(x0, y0):
    """Share of a tile in the two round pieces of tissue."""
    circles = shapely.union_all([shapely.Point(400, 450).buffer(300), shapely.Point(1050, 600).buffer(250)])
    return shapely.area(shapely.intersection(shapely.box(x0, y0, x0 + SIDE, y0 + SIDE), circles)) / SIDE**2


def test_tiles_are_a_grid_on_tissue_with_a_table(slide):
    place_by(slide["he"], affine(0.3, turn=10, shift=(5, 7)), "aligned")
    lay(slide)
    table, tiles = slide["tiles_table"], slide["tiles"]
    TableModel.validate(table)
    ShapesModel.validate(tiles)
    assert (table.n_vars, table.n_obs) == (0, len(tiles))
    assert list(table.obs["tile_id"]) == list(tiles.index) == list(table.obs_names)
    obs = table.obs
    bounds = tiles.geometry.bounds.to_numpy()
    np.testing.assert_allclose(bounds[:, :2], obs[["tile_col", "tile_row"]] * SIDE)
    np.testing.assert_allclose(bounds[:, 2:] - bounds[:, :2], SIDE)
    np.testing.assert_allclose(table.obsm["spatial"], bounds[:, :2] + SIDE / 2)
    assert tiles.index[0] == f"tile_{obs['tile_row'].iloc[0]:04d}_{obs['tile_col'].iloc[0]:04d}"
    assert obs["spade_valid"].all()
    assert obs["tissue_share"].between(0.5, 1).all()
    shares = truth(*bounds[:, :2].T)
    assert np.abs(obs["tissue_share"] - shares).max() < 0.2
    assert np.abs(obs["tissue_share"] - shares).mean() < 0.02
    y, x = np.mgrid[0 : 1000 - SIDE + 1 : SIDE, 0 : 1400 - SIDE + 1 : SIDE]
    assert len(tiles) == pytest.approx((truth(x.ravel(), y.ravel()) >= 0.5).sum(), abs=6)
    assert get_transformation(tiles, get_all=True) == get_transformation(slide["he"], get_all=True)


def test_the_record_is_that_of_patches(slide):
    lay(slide, size_um=100, size_px=25, overlap_um=20, min_tissue=0.8)
    record = slide["tiles_table"].uns["spade"]["patches"]
    assert record["function"] == "pp.tiles"
    assert (record["size_um"], record["size_px"], record["overlap_um"], record["min_tissue"]) == (100, 25, 20, 0.8)
    region = record["regions"]["tiles"]
    assert (region["element"], region["image"], region["mpp"]) == ("tiles", "he", MPP)
    assert "spot_diameter_um" not in region
    columns = slide["tiles_table"].obs["tile_col"].to_numpy()
    np.testing.assert_allclose(slide["tiles"].geometry.bounds["minx"], columns * 40)
    assert slide["tiles_table"].obs["tissue_share"].min() >= 0.8 - 1e-6


def test_the_table_annotates_the_tiles(slide):
    lay(slide)
    slide["tiles_table"].obs["spade_expert"] = [str(i % 3) for i in range(len(slide["tiles"]))]
    values = get_values("spade_expert", sdata=slide, element_name="tiles", table_name="tiles_table")
    assert values["spade_expert"].tolist() == slide["tiles_table"].obs["spade_expert"].tolist()
    _, matched = match_element_to_table(slide, "tiles", "tiles_table")
    assert matched.n_obs == len(slide["tiles"])


def test_the_whole_image_and_only_whole_tiles(slide):
    lay(slide, tissue_key=None, key_added="all")
    obs = slide["all_table"].obs
    assert len(obs) == (1000 // SIDE) * (1400 // SIDE)
    assert (obs["tissue_share"] == 1).all()
    assert slide["all"].geometry.bounds["maxx"].max() == 1400
    lay(slide, tissue_key=None, key_added="one", size_um=2000, size_px=500)
    assert slide["one"].geometry.bounds.to_numpy().tolist() == [[0, 0, 1000, 1000]]


def test_outlines_that_were_drawn_elsewhere_are_mapped_to_the_image(slide):
    drawn = ShapesModel.parse(GeoDataFrame(geometry=[shapely.box(0, 0, 448, 448)]))  # in µm
    place_by(drawn, affine(1 / MPP))
    slide.shapes["drawn"] = drawn
    lay(slide, tissue_key="drawn")
    assert len(slide["tiles"]) == 16
    assert (slide["tiles_table"].obs["tissue_share"] == 1).all()


def test_what_is_wholly_transparent_has_no_tiles():
    values = np.concatenate([pixels(1), np.full((1, 400, 400), 255, dtype=np.uint8)])
    values[3, :, 200:] = 0
    sdata = slide_of(glass(400, 400))
    sdata.images["he"] = picture(values, [*"rgba"])
    lay(sdata, tissue_key=None, mpp=1.0, size_um=100, size_px=100)
    assert sorted(set(sdata["tiles_table"].obs["tile_col"])) == [0, 1]


def test_new_tiles_replace_old_ones_and_the_same_tiles_stay(slide, tmp_path):
    path = tmp_path / "slide_1.zarr"
    sp.io.write(slide, path)
    lay(path)
    lay(slide)
    assert_same(read_zarr(path), slide)
    sp.pp.encode_patches(slide, Means())
    lay(slide)
    assert "X_means" in slide["tiles_table"].obsm
    lay(slide, min_tissue=0.9)
    assert "X_means" not in slide["tiles_table"].obsm
    assert slide["tiles_table"].obs["tissue_share"].min() >= 0.9 - 1e-6
    assert len(slide["tiles"]) == slide["tiles_table"].n_obs
    lay(path, size_um=80)
    assert read_zarr(path)["tiles_table"].uns["spade"]["patches"]["size_um"] == 80


@pytest.mark.slow
def test_what_was_made_from_tiles_on_other_tissue_is_outdated(slide, tmp_path):
    lay(slide, size_um=300, size_px=60)
    sp.pp.encode_patches(slide, Means())
    path = tmp_path / "slide_1.zarr"
    sp.io.write(slide, path)
    for one in (slide, path):
        sp.pp.tissue(one, min_area_mm2=0.04)  # the same outlines
        sp.pp.spatial_context(one, use_rep="X_means")
        sp.pp.tissue(one, min_area_mm2=0.9)
        with pytest.raises(
            ValueError, match=r"'patches' was made from 'tissue', which sp.pp.tissue has .*Run sp.pp.tiles"
        ):
            sp.pp.spatial_context(one, use_rep="X_means")
        lay(one, size_um=300, size_px=60)
        sp.pp.encode_patches(one, Means())
        sp.pp.spatial_context(one, use_rep="X_means")


def test_tiles_stand_beside_spots():
    sdata = tiny(images={"image": slide_of(pieces()[0])["he"]}, mpp=MPP)
    sp.pp.patches(sdata, size_um=80, size_px=40)
    sp.pp.tissue(sdata)
    lay(sdata)
    with pytest.raises(
        ValueError, match="there are several tables, 'table', 'tiles_table'; choose one with table_key="
    ):
        sp.pp.encode_patches(sdata)
    sp.pp.encode_patches(sdata, Means(), table_key="tiles")
    sp.pp.encode_patches(sdata, Means(), table_key="table")
    assert len(sdata["tiles_table"].obsm["X_means"]) == len(sdata["tiles"])
    assert len(sdata["table"].obsm["X_means"]) == 36
    assert set(sdata["table"].uns["spade"]["patches"]["regions"]) == {"spots"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"min_tissue": 0}, ValueError, "min_tissue=0: expected a number above 0 and up to 1"),
        ({"min_tissue": 1.1}, ValueError, "min_tissue=1.1: expected a number above 0"),
        ({"overlap_um": 112}, ValueError, "overlap_um=112: expected less than size_um=112, the side of a tile"),
        ({"overlap_um": -1}, ValueError, "overlap_um=-1: expected a number of µm of at least 0"),
        ({"size_um": 0}, ValueError, "size_um=0: expected a positive number of µm"),
        ({"size_px": 1.5}, ValueError, "size_px=1.5: expected a whole number"),
        (
            {"size_um": 2500.0},
            ValueError,
            r"size_um=2500: a tile is larger than images\['he'\], which has 2800 × 2000 µm",
        ),
        ({"tissue_key": "x"}, KeyError, r"tissue_key='x' is not among the shapes: 'tissue'.*sp.pp.tissue\(samples\)"),
        ({"tissue_key": None, "min_tissue": 0.9}, ValueError, "min_tissue=0.9: with tissue_key=None the whole image"),
        ({"key_added": "tissue"}, ValueError, "key_added='tissue': the tiles would replace the outlines"),
        ({"key_added": "he"}, ValueError, "key_added='he': images/he is there, and sp.pp.tiles did not write it"),
        ({"key_added": "a b"}, ValueError, "key_added='a b' cannot be stored"),
        (
            {"size_um": 800.0, "min_tissue": 1},
            ValueError,
            r"none of \d+ tiles of 800 µm is tissue to min_tissue=1; the la",
        ),
        ({"image_key": "x"}, KeyError, "image_key='x' is not there; images: 'he'"),
    ],
)
def test_bad_settings_are_named_and_nothing_is_written(slide, options, error, message):
    with pytest.raises(error, match=message):
        lay(slide, **options)
    assert set(slide.shapes) == {"tissue"}
    assert not slide.tables


def test_other_bad_input(slide):
    with pytest.raises(KeyError, match=r"tissue_key='tissue' is not among the shapes: none. Find the tissue with"):
        lay(slide_of(glass()), mpp=MPP)
    with pytest.raises(ValueError, match=r"the microns per pixel of images\['he'\] are not known"):
        lay(slide_of(glass()), tissue_key=None)
    slide.shapes["dots"] = ShapesModel.parse(np.array([[5.0, 5.0]]), geometry=0, radius=3)
    with pytest.raises(ValueError, match="tissue_key='dots': 1 of 1 geometries have no area"):
        lay(slide, tissue_key="dots")
    stains = tiny(images={"if": picture(c_coords=["DAPI", "PanCK", "CD45"])}, name=None)
    with pytest.raises(ValueError, match="there is no 8-bit RGB image"):
        lay(stains, tissue_key=None, mpp=1.0)
    with warns_here("coarser than twice the wanted 0.5 µm/px"):
        sp.pp.tiles(slide)


# --- quality


@pytest.fixture
def flawed():
    """A slide whose left piece of tissue is out of focus, and whose right piece has a grey band."""
    values = pieces()[0].copy()
    values[:, :740] = ndimage.gaussian_filter(values[:, :740], (3, 3, 0))
    values[560:680, 740:] = 128
    sdata = slide_of(values)
    sp.pp.tissue(sdata, mpp=MPP)
    return sdata


def test_tiles_out_of_focus_and_blank_ones_are_left_out_when_asked(flawed):
    lay(flawed)
    every = flawed["tiles_table"].obs
    assert not {"sharpness", "blank_share"} & set(every)
    lay(flawed, min_sharpness=1e-3, max_blank=0.99)
    seen = flawed["tiles_table"].obs
    assert list(seen.index) == list(every.index)
    blurred = seen["tile_col"] < 13
    assert seen["sharpness"][blurred].max() < seen["sharpness"][~blurred & (seen["blank_share"] < 0.5)].min()
    limit = float(seen["sharpness"][blurred].max()) + 1
    lay(flawed, min_sharpness=limit, max_blank=0.5)
    kept = seen[(seen["sharpness"] >= limit) & (seen["blank_share"] <= 0.5)]
    assert 0 < len(kept) < len(seen)
    assert list(flawed["tiles_table"].obs_names) == list(kept.index) == list(flawed["tiles"].index)
    record = flawed["tiles_table"].uns["spade"]["patches"]
    assert (record["min_sharpness"], record["max_blank"]) == (limit, 0.5)


def test_the_measures_are_those_of_the_literature():
    from spade.core.patches.quality import blank_share, sharpness

    patches = np.random.default_rng(1).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)
    patches[0, :, :6] = np.array([0, 90, 240])[[0, 1, 2, 0, 1, 2], None]  # without colour
    grey = patches @ np.array([0.299, 0.587, 0.114])
    expected = [ndimage.laplace(one)[1:-1, 1:-1].var() for one in grey]
    np.testing.assert_allclose(sharpness(patches), expected, rtol=1e-5)
    assert 0.25 <= blank_share(patches)[0] < 0.3
    assert blank_share(np.zeros((1, 8, 8, 3), np.uint8)) == 1


def test_limits_that_no_tile_passes_are_named_and_nothing_is_written(slide):
    with pytest.raises(ValueError, match=r"tiles on tissue passes min_sharpness=1e\+09 \(the sharpest has "):
        lay(slide, min_sharpness=1e9)
    assert "tiles" not in slide
    for options in ({"min_sharpness": 0}, {"max_blank": 1.2}, {"max_blank": "none"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            lay(slide, **options)


def test_tiles_on_other_tissue_are_refused_before_they_are_encoded(slide):
    lay(slide, size_um=300, size_px=60)
    sp.pp.tissue(slide, min_area_mm2=0.9)
    for function, options in ((sp.pp.encode_patches, {"encoder": Means()}), (sp.tl.score_image, {"color": "tile_row"})):
        with pytest.raises(ValueError, match=r"'patches' was made from 'tissue', which .*Run sp.pp.tiles again"):
            function(slide, **options)
    assert "X_means" not in slide["tiles_table"].obsm
    assert "tile_row" not in slide.images


def test_tiles_whose_pixels_are_measured_otherwise_are_replaced(slide):
    lay(slide, min_sharpness=0.001)
    sp.pp.encode_patches(slide, Means())
    lay(slide, min_sharpness=0.001)
    assert "X_means" in slide["tiles_table"].obsm
    sharp = slide["tiles_table"].obs["sharpness"]
    blurred = slide_of(ndimage.gaussian_filter(pieces()[0], (4, 4, 0)))
    slide.images["he"] = blurred["he"]
    lay(slide, min_sharpness=0.001)
    assert (slide["tiles_table"].obs["sharpness"] < sharp / 10).all()
    assert "X_means" not in slide["tiles_table"].obsm
