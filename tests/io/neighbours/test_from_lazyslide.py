"""Slides of LazySlide: where tiles lie, how large they are, whose features they have, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import fresh
from helpers.scans.neighbours import feature_table, lazyslide, spec_of
from helpers.scans.wsi import MPP, plain_slide
from helpers.sections import warns_here
from helpers.whole_slides import Means
from shapely import box
from spatialdata import read_zarr

import spade as sp
from spade._samples.features import is_image_features
from spade._samples.open import iter_samples


@pytest.fixture(scope="module")
def laid():
    """A toy slide with tiles of this package, and their texture."""
    (toy,) = sp.datasets.toy(1, 60)
    del toy.tables["table"], toy.shapes["spots"]
    sp.pp.tiles(toy, tissue_key=None, size_um=112)
    sp.pp.encode_patches(toy)
    return toy


@pytest.fixture
def pixels(laid):
    """Its image, upper left corners of the tiles, and their features."""
    table = laid["tiles_table"]
    image = laid["image"]
    corners = table.obsm["spatial"] - 112
    size = image["scale0"].sizes["x"], image["scale0"].sizes["y"]
    return image, size, corners, table.obsm["X_texture"]


def test_tiles_lie_where_they_were_encoded(laid, pixels):
    image, size, corners, texture = pixels
    taken = sp.io.from_lazyslide(lazyslide(size, corners, features={"texture": texture}), image=image)
    table = taken["tiles_table"]
    np.testing.assert_allclose(table.obsm["spatial"], laid["tiles_table"].obsm["spatial"], atol=1e-9)
    np.testing.assert_array_equal(table.obsm["X_texture"], texture)
    sp.pp.encode_patches(taken, key_added="X_again")
    np.testing.assert_allclose(table.obsm["X_again"], texture, rtol=1e-4, atol=1e-4)
    assert taken["tiles"].geom_equals_exact(laid["tiles"].set_axis(taken["tiles"].index), 1e-6).all()


def test_the_result_serves_every_step_as_own_tiles_do(laid, pixels, model, tmp_path):
    image, size, corners, texture = pixels
    taken = sp.io.from_lazyslide(lazyslide(size, corners, features={"texture": texture}), image=image)
    own = fresh(laid)
    for slide in (taken, own):
        sp.pp.spatial_context(slide, use_rep="X_texture")
        sp.tl.embed(slide, model)
    for key in ("X_texture_context", "X_spade", "spade_expert_weights"):
        np.testing.assert_allclose(taken["tiles_table"].obsm[key], own["tiles_table"].obsm[key], atol=1e-5)
    assert taken["tiles_table"].obs["spade_expert"].tolist() == own["tiles_table"].obs["spade_expert"].tolist()
    (opened,) = iter_samples(taken)
    assert is_image_features(opened, "X_texture_context")
    sp.io.write(taken, tmp_path / "a.zarr")
    read = read_zarr(tmp_path / "a.zarr")["tiles_table"]
    assert read.uns["spade"]["X_texture"]["encoder"] == "texture"
    assert read.uns["spade"]["patches"]["size_um"] == 112
    np.testing.assert_array_equal(read.obsm["X_spade"], taken["tiles_table"].obsm["X_spade"])


def test_features_follow_the_ids_of_tiles_and_not_their_order():
    corners = [(0, 0), (224, 0), (448, 0)]
    wsi = lazyslide((1000, 500), corners, features={"uni": np.eye(3)})
    wsi.shapes["tiles"] = wsi["tiles"].iloc[[2, 0, 1]]
    table = sp.io.from_lazyslide(wsi, image=np_image(1000, 500))["tiles_table"]
    assert table.obs["tile_id"].tolist() == [2, 0, 1]
    assert table.obsm["spatial"][:, 0].tolist() == [560, 112, 336]
    assert table.obsm["X_uni"].argmax(1).tolist() == [2, 0, 1]


def np_image(width, height):
    from spatialdata.models import Image2DModel

    return Image2DModel.parse(np.full((3, height, width), 200, np.uint8), dims=("c", "y", "x"), c_coords=[*"rgb"])


def test_tissue_columns_and_overlap_are_taken_over():
    ring = box(0, 0, 600, 400).difference(box(100, 100, 200, 200))
    wsi = lazyslide(
        (1000, 500),
        [(0, 0), (168, 0)],
        spec=spec_of(stride=168),
        tissue=[ring, box(700, 0, 900, 90)],
        tumour=[0.5, 1.0],
    )
    taken = sp.io.from_lazyslide(wsi, image=np_image(1000, 500), sample_id="A1", image_key="slide")
    assert taken["tissue"].geometry.tolist() == [ring, box(700, 0, 900, 90)]
    table = taken["tiles_table"]
    assert table.obs[["tissue_id", "tumour"]].to_numpy().tolist() == [[0, 0.5], [0, 1]]
    record = table.uns["spade"]["patches"]
    assert (record["overlap_um"], record["tissue_key"], record["function"]) == (28, "tissue", "io.from_lazyslide")
    assert taken.attrs["spade"]["sample"] == "A1"
    assert taken.attrs["spade"]["mpp"] == {"slide": 0.5}
    assert set(taken.images) == {"slide"}
    assert not wsi.attrs.get("spade")


@pytest.mark.parametrize(
    ("mpp", "side", "spec", "options", "size_um"),
    [
        (0.499, 224, spec_of(base=0.5 / 0.499), {}, 112),  # rounded to whole pixels
        (0.25, 448, spec_of(base=2), {}, 112),
        (0.499, 224, spec_of(base=0.5 / 0.499), {"size_um": 111.0}, 111),
        (None, 224, spec_of(), {"mpp": 0.25}, 56),  # LazySlide did not know, and took pixels as they are
        (0.5, 224, spec_of(mpp=None), {}, 112),
    ],
)
def test_size_is_what_was_asked_for_up_to_a_pixel(mpp, side, spec, options, size_um):
    wsi = lazyslide((1000, 500), [(0, 0), (448, 0)], side=side, mpp=mpp, spec=spec)
    taken = sp.io.from_lazyslide(wsi, image=np_image(1000, 500), **options)
    record = taken["tiles_table"].uns["spade"]["patches"]
    assert record["size_um"] == size_um
    scale = record["regions"]["tiles"]["mpp"]
    np.testing.assert_allclose(np.sqrt(taken["tiles"].area) * scale, size_um, rtol=1e-9)
    np.testing.assert_allclose(taken["tiles"].centroid.x, [side / 2, 448 + side / 2])


def test_the_file_of_the_slide_is_read_lazily_and_names_the_sample(tmp_path):
    path = plain_slide(tmp_path / "slide_7.tif")
    read = sp.io.read_wsi(path)
    size = read["he"]["scale0"].sizes["x"], read["he"]["scale0"].sizes["y"]
    wsi = lazyslide(size, [(0, 0), (64, 64)], side=64, mpp=MPP, spec=spec_of(64, mpp=MPP), file=str(path))
    taken = sp.io.from_lazyslide(wsi)
    assert taken.attrs["spade"]["sample"] == "slide_7"
    sp.pp.encode_patches(taken, Means())
    pixels = read["he"]["scale0"]["image"].to_numpy()[:, :64, :64]
    np.testing.assert_allclose(taken["tiles_table"].obsm["X_means"][0], pixels.mean((1, 2)), atol=0.5)
    with pytest.raises(ValueError, match=r"reads no file\. Give the slide with image="):
        sp.io.from_lazyslide(lazyslide(size, [(0, 0)], side=64, mpp=MPP, spec=spec_of(64, mpp=MPP)))


def test_a_store_is_taken_over_as_the_object_is(tmp_path):
    wsi = lazyslide((1000, 500), [(0, 0), (224, 0)], features={"uni": np.eye(2)})
    wsi.write(tmp_path / "wsi.zarr")
    taken = sp.io.from_lazyslide(tmp_path / "wsi.zarr", image=np_image(1000, 500))
    assert taken["tiles_table"].obsm["X_uni"].tolist() == [[1, 0], [0, 1]]


def test_tiles_off_the_image_are_not_valid_and_have_no_features():
    wsi = lazyslide((1000, 500), [(0, 0), (900, 0)], features={"uni": np.eye(2)})
    with warns_here("the centres of 1 of 2 tiles lie off the image"):
        table = sp.io.from_lazyslide(wsi, image=np_image(1000, 500))["tiles_table"]
    assert table.obs["spade_valid"].tolist() == [True, False]
    assert np.isnan(table.obsm["X_uni"]).all(1).tolist() == [False, True]


def test_only_tables_of_the_tiles_are_features_unless_named():
    wsi = lazyslide((1000, 500), [(0, 0), (224, 0)], features={"uni": np.eye(2), "b": np.eye(2)})
    wsi.tables["scores"] = feature_table(np.ones((2, 1)), "tiles", [0, 1], "library_id", "tile_id")
    taken = sp.io.from_lazyslide(wsi, image=np_image(1000, 500))
    assert set(taken["tiles_table"].obsm) == {"spatial", "X_uni", "X_b"}
    taken = sp.io.from_lazyslide(wsi, image=np_image(1000, 500), features=["scores", "uni_tiles"])
    assert set(taken["tiles_table"].obsm) == {"spatial", "X_scores", "X_uni"}
    with pytest.raises(KeyError, match="features='no' is not there; tables: 'uni_tiles'"):
        sp.io.from_lazyslide(wsi, image=np_image(1000, 500), features="no")


def spoil(what, value):
    def change(wsi):
        if what == "spec":
            wsi.attrs["tile_spec"]["tiles"] = value
        elif what == "mpp":
            wsi.attrs["slide_properties"]["mpp"] = value
        elif what == "shape":
            wsi.attrs["slide_properties"]["shape"] = value
        elif what == "no spec":
            del wsi.attrs["tile_spec"]
        elif what == "tile":
            wsi["tiles"].geometry = [wsi["tiles"].geometry[0], value]
        elif what == "ids":
            wsi["tiles"]["tile_id"] = value
        else:
            wsi.tables["uni_tiles"].X[0, 0] = value

    return change


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (spoil("spec", spec_of(448)), {}, ValueError, "224 px wide, 112 µm at 0.5 µm/px, but 224 µm were asked for"),
        (spoil("spec", spec_of() | {"width": 200}), {}, ValueError, "expected squares"),
        (spoil("mpp", None), {}, ValueError, r"states no µm/px \(mpp is None\): give mpp="),
        (spoil("mpp", float("nan")), {}, ValueError, "states no µm/px"),
        (spoil("mpp", 0.5), {"mpp": 0.25}, ValueError, "mpp=0.25 contradicts the object, which states 0.5"),
        (spoil("mpp", 0.5), {"size_um": 150.0}, ValueError, r"size_um=150: the tiles are 112 µm wide"),
        (spoil("shape", [500, 999]), {}, ValueError, "got 1000 × 500 pixels, but the tiles were laid on .* 999 × 500"),
        (spoil("no spec", 0), {}, KeyError, r"tile_key='tiles' is not in attrs\['tile_spec'\]"),
        (spoil("tile", box(224, 0, 448, 100)), {}, ValueError, "1 of 2 tiles are no squares .* 224.0 × 100.0"),
        (spoil("ids", [3, 3]), {}, ValueError, "ids occur more than once, such as 3"),
        (spoil("ids", [3, 4]), {}, ValueError, "has 2 rows for 2 tiles, 0 of them with the same id"),
        (spoil("X", np.nan), {}, ValueError, "'uni' has NaN or infinite values"),
        (spoil("mpp", 0.5), {"tile_key": "no"}, KeyError, "tile_key='no' is not in shapes; tiles: 'tiles'"),
        (spoil("mpp", 0.5), {"mpp": -1}, ValueError, "mpp=-1: expected a positive number"),
        (spoil("mpp", 0.5), {"image_key": "a b"}, ValueError, "image_key='a b' cannot be stored"),
        (spoil("mpp", 0.5), {"image": 3}, TypeError, "image: got int"),
    ],
)
def test_what_does_not_fit_is_refused(change, options, error, match):
    wsi = lazyslide((1000, 500), [(0, 0), (224, 0)], features={"uni": np.eye(2)})
    change(wsi)
    with pytest.raises(error, match=match):
        sp.io.from_lazyslide(wsi, **{"image": np_image(1000, 500)} | options)


def test_what_is_no_slide_is_refused(tmp_path):
    with pytest.raises(TypeError, match="wsi: got int; expected one SpatialData"):
        sp.io.from_lazyslide(3)
    with pytest.raises(FileNotFoundError, match="wsi: there is no store"):
        sp.io.from_lazyslide(tmp_path / "no.zarr")
