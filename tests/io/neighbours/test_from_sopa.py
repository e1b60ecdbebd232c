"""Patches of sopa: levels, patches that were cut at the tissue, and embeddings of earlier patches."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.scans.neighbours import sopa
from helpers.sections import warns_here
from helpers.whole_slides import MPP, Means, pieces, slide_of
from shapely import box
from spatialdata import read_zarr

import spade as sp

#: Upper left corners in pixels of level 1, which is half as fine.
CORNERS = [(100, 100), (156, 100), (212, 100), (100, 156)]
TISSUE = box(120, 90, 260, 200)


@pytest.fixture(scope="module")
def image():
    return slide_of(pieces()[0])["he"]


@pytest.fixture(scope="module")
def means(image):
    """Mean colours of the patches, straight from the pixels."""
    pixels = image["scale0"]["image"].to_numpy()
    return np.array([pixels[:, 2 * y : 2 * y + 112, 2 * x : 2 * x + 112].mean((1, 2)) for x, y in CORNERS])


def slide(image, means, **options):
    settings = {"side": 56, "mpp": MPP, "tissue": TISSUE, **options}
    return sopa(image, CORNERS, features={"means": means}, **settings)


def test_whole_patches_lie_where_they_were_encoded(image, means, tmp_path):
    taken = sp.io.from_sopa(slide(image, means))
    table = taken["tiles_table"]
    sp.pp.encode_patches(taken, Means(), key_added="X_again")
    np.testing.assert_allclose(table.obsm["X_again"], means, atol=1)
    np.testing.assert_array_equal(table.obsm["X_means"], means.astype(np.float32))
    np.testing.assert_allclose(taken["tiles"].area, 112**2)
    assert taken["tissue"].geometry[0].equals(box(240, 180, 520, 400))
    record = table.uns["spade"]["patches"]
    assert (record["size_um"], record["size_px"], record["overlap_um"]) == (224, 56, 0)
    sp.pp.spatial_context(taken, use_rep="X_means")
    sp.io.write(taken, tmp_path / "a.zarr")
    assert read_zarr(tmp_path / "a.zarr")["tiles_table"].uns["spade"]["X_means"]["function"] == "io.from_sopa"


def test_a_store_is_taken_over_as_the_object_is(image, means, tmp_path):
    slide(image, means).write(tmp_path / "sopa.zarr")
    read, held = sp.io.from_sopa(tmp_path / "sopa.zarr"), sp.io.from_sopa(slide(image, means))
    np.testing.assert_array_equal(read["tiles_table"].obsm["X_means"], held["tiles_table"].obsm["X_means"])
    assert read["tiles"].geom_equals(held["tiles"]).all()


def test_size_overlap_name_and_scale(image, means):
    given = slide(image, means, mpp=None, patch_width=64)
    taken = sp.io.from_sopa(given, mpp=1.98, size_um=224.0, sample_id="B2")
    record = taken["tiles_table"].uns["spade"]["patches"]
    assert (record["size_um"], record["size_px"]) == (224, 64)
    assert taken.attrs["spade"]["sample"] == "B2"
    near = sopa(image, [(100, 100), (142, 100)], side=56, mpp=MPP, features={"m": means[:2]})
    assert sp.io.from_sopa(near)["tiles_table"].uns["spade"]["patches"]["overlap_um"] == 56


def test_patches_beyond_the_border_are_not_valid(image):
    corners = [(100, 100), (690, 100)]  # the image is 700 wide at this level
    given = sopa(image, corners, side=56, mpp=MPP, features={"m": np.eye(2)})
    with warns_here("the centres of 1 of 2 tiles lie off the image"):
        table = sp.io.from_sopa(given)["tiles_table"]
    assert table.obs["spade_valid"].tolist() == [True, False]


def test_embeddings_of_earlier_patches_are_refused(image, means):
    given, other = slide(image, means), slide(image, means)
    given.tables["old_embeddings"] = other["means_embeddings"]
    given["old_embeddings"].obsm["spatial"] = given["old_embeddings"].obsm["spatial"] + 20
    with pytest.raises(ValueError, match="'old' is of patches at other places"):
        sp.io.from_sopa(given)
    taken = sp.io.from_sopa(given, features="means_embeddings")
    assert set(taken["tiles_table"].obsm) == {"spatial", "X_means"}
    given["old_embeddings"].uns["embedding_config"]["patch_width"] = 99
    with pytest.raises(ValueError, match="patches of 56, 99 px"):
        sp.io.from_sopa(given)


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (lambda s: s.attrs["slide_properties"].update(mpp=None), {}, ValueError, "states no µm/px"),
        (lambda s: s.attrs["slide_properties"].update(shape=[1, 1]), {}, ValueError, "states no µm/px"),
        (lambda s: None, {"mpp": 0.5}, ValueError, r"contradicts images\['wsi'\], which states 2"),
        (lambda s: s.tables.pop("means_embeddings"), {}, KeyError, "sopa.patches.compute_embeddings makes them"),
        (lambda s: s.shapes.pop("embeddings_patches"), {}, KeyError, "which the embeddings describe, are not there"),
        (lambda s: None, {"image_key": "no"}, KeyError, "image_key='no'.*images: 'wsi'"),
        (lambda s: s["embeddings_patches"].drop(columns="bboxes", inplace=True), {}, ValueError, "no squares of one"),
    ],
)
@pytest.mark.filterwarnings("ignore:The table is annotating")
def test_what_does_not_fit_is_refused(image, means, change, options, error, match):
    given = slide(image, means)
    change(given)
    with pytest.raises(error, match=match):
        sp.io.from_sopa(given, **options)
