"""Images and shapes that changed after patches were made: every reader follows them as they are now, or refuses."""

from __future__ import annotations

import copy

import geopandas as gpd
import numpy as np
import pytest
import shapely
import spatialdata as sd
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Affine, Identity, Scale, Sequence, Translation, set_transformation

import spade as sp

FULL = 3_000


@pytest.fixture(scope="module")
def whole():
    """A section with patches and features, and its image without pyramid."""
    (sdata,) = sp.datasets.toy(1, 60)
    sp.pp.patches(sdata)
    sp.pp.encode_patches(sdata)
    return sdata


def features(sdata):
    return sdata["table"].obsm["X_texture"]


def of_whole(whole, sdata):
    """The features of the same spots before anything changed."""
    return features(whole)[whole["table"].obs_names.get_indexer(sdata["table"].obs_names)]


def cropped(sdata, low, high=FULL):
    return sd.bounding_box_query(
        sdata, axes=("x", "y"), min_coordinate=[low, low], max_coordinate=[high, high],
        target_coordinate_system="global",
    )  # fmt: skip


def pixels(sdata, scale="scale0"):
    return np.asarray(sdata["image"][scale]["image"].data)


def with_image(sdata, array, transformation=None, key="image"):
    """A copy of the object with another image under the same name."""
    transformations = None if transformation is None else {"global": transformation}
    image = Image2DModel.parse(array, dims=("c", "y", "x"), c_coords=["r", "g", "b"], transformations=transformations)
    return sd.SpatialData(
        images={key: image},
        shapes={key: copy.deepcopy(shapes) for key, shapes in sdata.shapes.items()},
        tables={"table": sdata["table"].copy()},
        attrs=dict(sdata.attrs),
    )


def test_a_crop_of_empty_margin_changes_no_feature(whole):
    part = cropped(whole, 100)
    assert len(part["table"]) == 60
    sp.pp.encode_patches(part)
    np.testing.assert_allclose(features(part), of_whole(whole, part), rtol=1e-4, atol=1e-5)
    assert part["table"].obs["spade_valid"].all()


def test_a_crop_that_cuts_tissue_encodes_what_is_left_and_marks_the_rest(whole):
    part = cropped(whole, 260, 1_200)
    part.tables["table"] = whole["table"].copy()  # all rows, of which many lie off what is left
    part.shapes["patches"], part.shapes["spots"] = whole["patches"], whole["spots"]
    with pytest.warns(UserWarning, match=r"centres of \d+ of 60 patches are off the image, which changed after"):
        sp.pp.encode_patches(part)
    x, y = np.array([[p.x, p.y] for p in whole["patches"].geometry.centroid]).T
    inside = (x >= 260) & (x < 1_200) & (y >= 260) & (y < 1_200)
    well_inside = (np.minimum(x, y) > 260 + 112) & (np.maximum(x, y) < 1_200 - 112)
    assert 5 < well_inside.sum() < inside.sum() < 60
    np.testing.assert_array_equal(np.isfinite(features(part)).all(1), inside)
    np.testing.assert_array_equal(part["table"].obs["spade_valid"], inside)
    np.testing.assert_allclose(features(part)[well_inside], features(whole)[well_inside], rtol=1e-4, atol=1e-5)


def test_a_cropped_store_is_read_rightly(whole, tmp_path):
    part = cropped(whole, 100)
    sp.io.write(part, tmp_path / "part.zarr")
    sp.pp.encode_patches(tmp_path / "part.zarr")
    back = sd.read_zarr(tmp_path / "part.zarr")
    np.testing.assert_allclose(features(back), of_whole(whole, back), rtol=1e-4, atol=1e-5)


def test_a_crop_of_a_crop_and_patches_made_again(whole):
    part = cropped(cropped(whole, 60), 100)
    sp.pp.patches(part)  # µm/px is known from the reader's record of the whole image
    assert part["table"].uns["spade"]["patches"]["regions"]["spots"]["mpp"] == 0.5
    sp.pp.encode_patches(part)
    np.testing.assert_allclose(features(part), of_whole(whole, part), rtol=1e-4, atol=1e-5)


def test_labels_after_a_crop_are_those_of_before(whole):
    drawn = gpd.GeoDataFrame(
        {"label": ["left", "right"]}, geometry=[shapely.box(0, 0, 900, FULL), shapely.box(900, 0, FULL, FULL)]
    )
    before, part = cropped(whole, 0), cropped(whole, 100)
    for sdata in (before, part):
        sdata.shapes["drawn"] = ShapesModel.parse(drawn.copy(), transformations={"global": Identity()})
        sp.pp.label_patches(sdata, "drawn")
    assert part["table"].obs["label"].astype(str).tolist() == before["table"].obs["label"].astype(str).tolist()
    assert before["table"].obs["label"].nunique() == 2
    with pytest.raises(ValueError, match="pixels of an image, but the image was cropped, resampled or moved"):
        sp.pp.label_patches(part, drawn)


def test_a_coarser_image_with_its_scale_has_patches_of_the_same_tissue(whole):
    coarse = with_image(whole, pixels(whole, "scale1"), Scale([2.0, 2.0], axes=("x", "y")))
    sp.pp.encode_patches(coarse)
    again = with_image(whole, pixels(whole, "scale1"), Scale([2.0, 2.0], axes=("x", "y")))
    sp.pp.patches(again)
    assert again["table"].uns["spade"]["patches"]["regions"]["spots"]["mpp"] == pytest.approx(1.0)
    sp.pp.encode_patches(again)
    np.testing.assert_allclose(features(coarse), features(again), rtol=1e-4, atol=1e-5)
    correlations = [
        np.corrcoef(a, b)[0, 1] for a, b in zip(features(coarse).T, features(whole).T, strict=True) if b.std()
    ]
    assert np.median(correlations) > 0.8  # patches of four times the side correlate by 0.4


@pytest.mark.parametrize("step", ["encode", "patches", "draw", "label"])
def test_a_coarser_image_without_a_scale_is_refused(whole, step):
    coarse = with_image(whole, pixels(whole, "scale2"))
    drawn = gpd.GeoDataFrame({"label": ["a"]}, geometry=[shapely.box(0, 0, FULL, FULL)])
    steps = {
        "encode": lambda: sp.pp.encode_patches(coarse),
        "patches": lambda: sp.pp.patches(coarse),
        "draw": lambda: sp.pl.patches(coarse),
        "label": lambda: sp.pp.label_patches(coarse, drawn),
    }
    with pytest.raises(ValueError, match=r"had \d+ × \d+ pixels when .* and has \d+ × \d+ now"):
        steps[step]()


def test_a_new_registration_of_the_image_is_followed(whole):
    """The image keeps its pixels; both elements are moved together, then the image alone, by 50 pixels."""
    moved = with_image(whole, pixels(whole))
    for key in ("image", "patches", "spots"):
        set_transformation(
            moved[key], Sequence([Scale([0.5, 0.5], axes=("x", "y")), Translation([7, 9], axes=("x", "y"))]), "global"
        )
    sp.pp.encode_patches(moved)
    np.testing.assert_allclose(features(moved), features(whole), rtol=1e-4, atol=1e-5)
    rolled = with_image(whole, np.pad(pixels(whole), [(0, 0), (0, 0), (50, 0)])[:, :, : pixels(whole).shape[2]])
    set_transformation(rolled["image"], Translation([-50, 0], axes=("x", "y")), "global")
    sp.pp.encode_patches(rolled)
    x = whole["patches"].geometry.centroid.x.to_numpy()
    inner = (x > 170) & (x < pixels(whole).shape[2] - 170)
    np.testing.assert_allclose(features(rolled)[inner], features(whole)[inner], rtol=1e-4, atol=1e-5)


def test_a_stretch_and_a_cut_are_refused(whole):
    stretched = with_image(whole, pixels(whole))
    set_transformation(
        stretched["image"], Affine([[1.3, 0, 0], [0, 1, 0], [0, 0, 1]], ("x", "y"), ("x", "y")), "global"
    )
    with pytest.raises(ValueError, match=r"stretches one axis 1\.30 times as much"):
        sp.pp.encode_patches(stretched)
    cut = with_image(whole, pixels(whole))
    squares = cut["patches"].copy()
    squares.geometry = squares.geometry.intersection(shapely.box(0, 0, 900, FULL)).where(
        squares.geometry.centroid.x < 900, squares.geometry
    )
    cut.shapes["patches"] = squares
    with pytest.raises(ValueError, match=r"squares in shapes\['patches'\] differ in size"):
        sp.pp.encode_patches(cut)


def test_context_splits_and_plots_follow_too(whole):
    part = cropped(whole, 100)
    sp.pp.spatial_context(part, use_rep="X_texture", radius_um=150)
    full = cropped(whole, 0)
    sp.pp.spatial_context(full, use_rep="X_texture", radius_um=150)
    np.testing.assert_allclose(
        part["table"].obsm["X_texture_context"], full["table"].obsm["X_texture_context"], rtol=1e-5
    )
    sp.pp.split(part, block_um=300)
    sp.pp.split(full, block_um=300)
    assert part["table"].obs["spade_split"].tolist() == full["table"].obs["spade_split"].tolist()
    axes = sp.pl.patches(part, n=2)
    image = axes[0, 1].get_images()[0].get_array()
    (again,) = (ax.get_images()[0].get_array() for ax in [sp.pl.patches(whole, n=2)[0, 1]])
    np.testing.assert_allclose(np.asarray(image, float), np.asarray(again, float), atol=2)


def test_concatenated_objects_keep_their_patches(whole):
    both = sd.concatenate({"one": cropped(whole, 0), "two": cropped(whole, 100)}, concatenate_tables=False)
    for key in ("table-one", "table-two"):
        sp.pp.encode_patches(both, table_key=key, key_added="again")
        np.testing.assert_allclose(both[key].obsm["again"], features(whole), rtol=1e-4, atol=1e-5)
        sp.pp.patches(both, table_key=key)  # µm/px from the record of the patches: attrs are gone
        assert both[key].uns["spade"]["patches"]["regions"][f"spots-{key[6:]}"]["mpp"] == 0.5
    merged = sd.concatenate({"one": cropped(whole, 0), "two": cropped(whole, 100)}, concatenate_tables=True)
    with pytest.raises(
        KeyError, match=r"the record of their size and µm/px is gone, as after spatialdata\.concatenate"
    ):
        sp.pp.encode_patches(merged)


def test_a_dropped_column_and_regions_without_patches_are_no_obstacle(whole):
    bare = cropped(whole, 100)
    del bare["table"].obs["spade_valid"]
    sp.pp.encode_patches(bare)
    np.testing.assert_allclose(features(bare), of_whole(whole, bare), rtol=1e-4, atol=1e-5)
    other = cropped(whole, 100)
    other["table"].uns["spade"]["patches"]["regions"] = {}
    with pytest.warns(UserWarning, match="has no patches, so its 60 spots get NaN features"):
        sp.pp.encode_patches(other)
    assert np.isnan(features(other)).all()
