"""Feature files with their slide: where patches lie, their size, whose features they have, and what does not fit."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from conftest import fresh
from helpers.scans.wsi import HEIGHT, LEFT, MPP, TOP, WIDTH, leica_slide, plain_slide
from helpers.sections import warns_here
from helpers.slides import write_clam, write_trident
from matplotlib.axes import Axes
from shapely import box
from spatialdata import bounding_box_query, read_zarr

import spade as sp
from spade._samples.features import is_image_features
from spade._samples.open import iter_samples

CORNERS = np.array([[0, 0], [224, 448], [1000, 700], [672, 56]])
X = np.arange(32, dtype=np.float32).reshape(4, 8)
#: 112 pixels at 10x of a slide scanned at 20x are 224 of its pixels, 112 µm.
AT_10X = {"patch_size": 112, "patch_size_level0": 224, "level0_magnification": 20, "target_magnification": 10}
SIZE = {"level0_width": WIDTH, "level0_height": HEIGHT}


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return plain_slide(tmp_path_factory.mktemp("slides") / "s7.tif")


@pytest.fixture
def trident(tmp_path):
    write_trident(tmp_path / "s7.h5", X, CORNERS, **AT_10X, **SIZE)
    return tmp_path / "s7.h5"


def test_patches_of_trident_lie_where_they_were_cut(slide, trident):
    sdata = sp.io.from_trident(slide, trident)
    table = sdata["tiles_table"]
    assert [tuple(one.bounds) for one in sdata["tiles"].geometry] == [
        (0, 0, 224, 224), (224, 448, 448, 672), (1000, 700, 1224, 924), (672, 56, 896, 280),
    ]  # fmt: skip
    assert table.obsm["spatial"].tolist() == [[112, 112], [336, 560], [1112, 812], [784, 168]]
    np.testing.assert_array_equal(table.obsm["X_uni_v1"], X)
    assert table.obsm["X_uni_v1"].dtype == np.float32
    assert table.obs["tile_id"].tolist() == [0, 1, 2, 3]
    assert table.obs["spade_valid"].all()
    assert table.n_vars == 0
    patches, origin = (table.uns["spade"][key] for key in ("patches", "X_uni_v1"))
    assert (patches["function"], patches["size_um"], patches["size_px"], patches["overlap_um"]) == (
        "io.from_trident", 112, 112, 0,
    )  # fmt: skip
    assert (origin["function"], origin["encoder"], origin["about_um"]) == ("io.from_trident", "uni_v1", 112)
    assert sdata.attrs["spade"]["sample"] == "s7"
    assert sdata.attrs["spade"]["mpp"]["he"] == pytest.approx(MPP)
    assert sdata.attrs["spade"]["slides"]["he"]["file"] == "s7.tif"
    (opened,) = iter_samples(sdata)
    assert is_image_features(opened, "X_uni_v1")


@pytest.mark.parametrize(
    ("attributes", "options", "side", "size_px"),
    [
        ({"patch_size": 256, "patch_level": 0, "downsample": np.array([1.0, 1.0]), "name": "s7"}, {}, 256, 256),
        ({"patch_size": 64, "patch_level": 1, "downsample": np.array([4.0, 4.002]), "name": "s7"}, {}, 256, 64),
        ({"patch_size": 32, "patch_level": 1, "downsample": 4.0, "custom_downsample": 2}, {}, 256, 32),
        ({"patch_size": 256, "patch_level": 0}, {}, 256, 256),
        ({}, {"patch_size_level0": 256}, 256, 256),
        ({"patch_size": 64, "patch_level": 1}, {"patch_size_level0": 256}, 256, 64),
        ({"patch_size": 100, "level0_magnification": 40, "target_magnification": 20}, {}, 200, 100),
        ({"patch_size": 100, "patch_size_level0": 199}, {"patch_size_level0": 200}, 200, 100),
    ],
)
def test_the_side_of_a_patch_is_what_the_file_says_or_is_given(slide, tmp_path, attributes, options, side, size_px):
    write_clam(tmp_path / "a.h5", X, CORNERS, **attributes)
    sdata = sp.io.from_trident(slide, tmp_path / "a.h5", **options)
    table = sdata["tiles_table"]
    np.testing.assert_allclose(sdata["tiles"].total_bounds, [0, 0, 1000 + side, 700 + side])
    assert [tuple(one.bounds[:2]) for one in sdata["tiles"].geometry] == [tuple(corner) for corner in CORNERS.tolist()]
    np.testing.assert_array_equal(table.obsm["X_features"], X)
    assert table.uns["spade"]["patches"]["size_px"] == size_px
    assert table.uns["spade"]["patches"]["size_um"] == pytest.approx(side * MPP)
    assert "encoder" not in table.uns["spade"]["X_features"]


def test_what_trident_gives_with_a_batch_axis_and_torch_is_read_too(slide, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["coords"] = X[None], CORNERS[None]
    torch.save({"features": torch.tensor(X), "coords": torch.tensor(CORNERS)}, tmp_path / "a.pt")
    for name in ("a.h5", "a.pt"):
        sdata = sp.io.from_trident(slide, tmp_path / name, patch_size_level0=224)
        np.testing.assert_array_equal(sdata["tiles_table"].obsm["X_features"], X)
        assert sdata["tiles"].geometry[3].equals(box(672, 56, 896, 280))


def test_overlap_size_key_and_name_are_as_asked_for(slide, tmp_path):
    write_trident(tmp_path / "a.h5", X, CORNERS, **AT_10X, **SIZE | {"overlap": 28, "name": "s7"})
    sdata = sp.io.from_trident(
        slide, tmp_path / "a.h5", size_um=111.5, key_added="X_uni", image_key="slide", sample_id="S 7"
    )
    table = sdata["tiles_table"]
    assert table.uns["spade"]["patches"]["overlap_um"] == pytest.approx(111.5 / 4)
    np.testing.assert_allclose(np.sqrt(sdata["tiles"].area) * MPP, 111.5)
    np.testing.assert_allclose(table.obsm["spatial"], CORNERS + 112)
    assert table.uns["spade"]["X_uni"]["encoder"] == "uni_v1"
    assert set(sdata.images) == {"slide"}
    assert sdata.attrs["spade"]["sample"] == "S 7"


def test_objects_and_stores_of_the_slide_serve_as_well(slide, trident, tmp_path):
    read = sp.io.read_wsi(slide)
    sp.io.write(read, tmp_path / "slide.zarr")
    for given in (read, tmp_path / "slide.zarr"):
        sdata = sp.io.from_trident(given, trident)
        assert sdata["tiles"].geometry[1].equals(box(224, 448, 448, 672))
        assert sdata.attrs["spade"]["slides"] == read.attrs["spade"]["slides"]
    assert not list(read.shapes)
    assert not list(read.tables)
    sp.io.write(sdata, tmp_path / "tiles.zarr")
    table = read_zarr(tmp_path / "tiles.zarr")["tiles_table"]
    np.testing.assert_array_equal(table.obsm["X_uni_v1"], X)
    assert table.uns["spade"]["X_uni_v1"]["encoder"] == "uni_v1"


def test_rows_without_features_stay_and_patches_over_the_edge_are_not_valid(slide, tmp_path):
    x, corners = X.copy(), CORNERS.copy()
    x[1], corners[3] = np.nan, [WIDTH - 100, 0]
    write_trident(tmp_path / "s7.h5", x, corners, **AT_10X, **SIZE)
    with warns_here("the centres of 1 of 4 tiles lie off the image"):
        table = sp.io.from_trident(slide, tmp_path / "s7.h5")["tiles_table"]
    assert table.obs["spade_valid"].tolist() == [True, True, True, False]
    assert np.isnan(table.obsm["X_uni_v1"]).all(1).tolist() == [False, True, False, True]


# --- what follows


@pytest.fixture(scope="module")
def encoded(slide):
    """The slide with tiles of this package, and their texture."""
    sdata = sp.io.read_wsi(slide)
    sp.pp.tiles(sdata, size_um=112, tissue_key=None)
    sp.pp.encode_patches(sdata)
    return sdata


def test_the_result_serves_every_step_as_own_tiles_do(slide, encoded, cohort, model, tmp_path):
    own = fresh(encoded)
    table = own["tiles_table"]
    corners = np.round(table.obsm["spatial"] - 112).astype(int)
    write_trident(tmp_path / "s7.h5", table.obsm["X_texture"], corners, encoder="texture", **AT_10X, **SIZE)
    taken = sp.io.from_trident(slide, tmp_path / "s7.h5")
    for sdata in (taken, own):
        sp.pp.spatial_context(sdata, use_rep="X_texture")
        sp.tl.embed(sdata, model)
        sp.tl.routing_scores(sdata, model)
        sp.tl.predict_expression(sdata, model, reference=cohort, k=5)
        sp.tl.score_image(sdata, "spade_entropy")
    got = taken["tiles_table"]
    for key in ("X_texture_context", "X_spade", "spade_expert_weights", "X_predicted"):
        np.testing.assert_allclose(got.obsm[key], table.obsm[key], rtol=1e-4, atol=1e-5)
    assert got.obs["spade_expert"].tolist() == table.obs["spade_expert"].tolist()
    images = [sdata["spade_entropy"]["scale0"]["image"].to_numpy() for sdata in (taken, own)]
    np.testing.assert_allclose(*images, rtol=1e-4)
    axes = sp.pl.slide(taken, color="spade_expert")
    assert isinstance(np.ravel(axes)[0], Axes)
    sp.io.write_annotations(taken, tmp_path / "a.geojson", color="spade_expert")
    drawn = sp.io.read_annotations(tmp_path / "a.geojson")
    assert drawn.geometry[0].equals(box(*corners[0], *(corners[0] + 224)))
    assert drawn["label"].tolist() == got.obs["spade_expert"].tolist()


def test_models_refuse_what_they_refuse_of_the_file(slide, encoded, model, tmp_path):
    x = encoded["tiles_table"].obsm["X_texture"][:4]
    write_trident(tmp_path / "s7.h5", x, CORNERS, **AT_10X, **SIZE)
    other = sp.io.from_trident(slide, tmp_path / "s7.h5", key_added="X_texture")
    with pytest.raises(
        ValueError, match=r"s7: obsm\['X_texture'\] holds features of encoder 'uni_v1', but .*'texture'"
    ):
        sp.tl.embed(other, model)
    wide = AT_10X | {"patch_size_level0": 400}
    write_trident(tmp_path / "s7.h5", x, CORNERS, encoder="texture", **wide, **SIZE)
    with pytest.raises(ValueError, match=r"obsm\['X_texture'\] holds patches of about 200 µm, but .* of 112 µm"):
        sp.tl.embed(sp.io.from_trident(slide, tmp_path / "s7.h5"), model)
    nearly = AT_10X | {"patch_size_level0": 256}
    write_trident(tmp_path / "s7.h5", x, CORNERS, encoder="texture", **nearly, **SIZE)
    taken = sp.io.from_trident(slide, tmp_path / "s7.h5")
    sp.tl.embed(taken, model)  # 128 µm instead of 112, as of a file
    sp.tl.embed(tmp_path / "s7.h5", model, out=tmp_path / "out")
    with h5py.File(tmp_path / "out" / "s7.h5") as file:
        np.testing.assert_allclose(taken["tiles_table"].obsm["X_spade"], file["features"][...], atol=1e-6)


def test_a_slide_with_bounds_is_counted_from_its_own_corner(tmp_path):
    path = leica_slide(tmp_path / "a.scn")
    write_clam(tmp_path / "a.h5", X[:1], np.array([[LEFT + 100, TOP + 200]]), patch_size=224, patch_level=0, name="a")
    sdata = sp.io.from_trident(path, tmp_path / "a.h5")
    assert sdata["tiles"].geometry[0].equals(box(1100, 2200, 1324, 2424))
    sp.io.write_annotations(sdata, tmp_path / "a.geojson")
    ring = json.loads((tmp_path / "a.geojson").read_text())["features"][0]["geometry"]["coordinates"][0]
    assert (np.min(ring, 0).tolist(), np.max(ring, 0).tolist()) == ([100, 200], [324, 424])


# --- what does not fit


@pytest.mark.parametrize(
    ("attributes", "coords", "options", "error", "match"),
    [
        ({"name": "s8"}, None, {}, ValueError, r"made of a slide called 's8', but this one is 's7'.*sample_id='s8'"),
        ({"level0_width": 4096}, None, {}, ValueError, "a slide of 4096 × 1203 pixels, but the image has 1606 × 1203"),
        (
            {},
            [[0, 0], [224, 448], [5000, 0], [0, 0]],
            {},
            ValueError,
            r"1 of 4 patches lie off the slide of 1606 × 1203",
        ),
        ({}, [[0, 0], [-224, 448], [0, 0], [0, 0]], {}, ValueError, r"1 of 4 patches lie off .* such as one at \(-224"),
        ({}, [[0, 0], [np.nan, 448], [0, 0], [0, 0]], {}, ValueError, "'coords' are no finite numbers"),
        ({}, [[0, 0], [224, 448]], {}, ValueError, r"'coords' has shape \(2, 2\) beside features \(4, 8\)"),
        ({}, None, {"patch_size_level0": 256}, ValueError, "patch_size_level0=256, but .* says 224 pixels"),
        ({}, None, {"patch_size_level0": -1}, ValueError, "patch_size_level0=-1: expected a positive number"),
        ({}, None, {"mpp": 0.25}, ValueError, "mpp=0.25 contradicts"),
        ({}, None, {"size_um": 150}, ValueError, "size_um=150: the tiles are 112 µm wide"),
        ({}, None, {"key_added": "a b"}, ValueError, "key_added='a b' cannot be stored"),
        ({}, None, {"image_key": "a b"}, ValueError, "image_key='a b' cannot be stored"),
    ],
)
def test_what_does_not_fit_is_refused(slide, tmp_path, attributes, coords, options, error, match):
    corners = CORNERS if coords is None else np.array(coords)
    write_trident(tmp_path / "s7.h5", X, corners, **AT_10X | SIZE | attributes)
    with pytest.raises(error, match=match):
        sp.io.from_trident(slide, tmp_path / "s7.h5", **options)


@pytest.mark.parametrize("attributes", [{}, {"patch_size": 256}, {"patch_size": 256, "patch_level": 1}])
def test_patches_of_unknown_size_are_asked_for(slide, tmp_path, attributes):
    write_clam(tmp_path / "a.h5", X, CORNERS, **attributes)
    with pytest.raises(ValueError, match=r"does not say how large its patches are .*Give patch_size_level0="):
        sp.io.from_trident(slide, tmp_path / "a.h5")


def test_the_same_slide_under_another_name_is_taken_if_so_said(slide, tmp_path):
    write_trident(tmp_path / "s8.h5", X, CORNERS, **AT_10X, **SIZE)
    assert sp.io.from_trident(slide, tmp_path / "s8.h5", sample_id="s8").attrs["spade"]["sample"] == "s8"


def test_other_files_and_objects_are_refused(slide, trident, model, tmp_path):
    torch.save(torch.tensor(X), tmp_path / "s7.pt")
    with pytest.raises(KeyError, match=r"has no 'coords'.*Give the \.h5 file"):
        sp.io.from_trident(slide, tmp_path / "s7.pt", patch_size_level0=224)
    with pytest.raises(ValueError, match=r"is no feature file; expected one that ends in \.h5"):
        sp.io.from_trident(slide, slide)
    with pytest.raises(FileNotFoundError, match=r"no\.h5"):
        sp.io.from_trident(slide, tmp_path / "no.h5")
    with pytest.raises(TypeError, match="slide: got int; expected one SpatialData"):
        sp.io.from_trident(3, trident)
    with pytest.raises(FileNotFoundError, match=r"no\.tif"):
        sp.io.from_trident(tmp_path / "no.tif", trident)
    read = sp.io.read_wsi(slide)
    with pytest.raises(KeyError, match="image_key='slide' is not there; images: 'he'"):
        sp.io.from_trident(read, trident, image_key="slide")
    part = bounding_box_query(
        read, axes=("x", "y"), min_coordinate=[0, 0], max_coordinate=[1500, 1000], target_coordinate_system="global"
    )
    with pytest.raises(ValueError, match="a slide of 1606 × 1203 pixels, but the image has 1500 × 1000"):
        sp.io.from_trident(part, trident)
    x = np.zeros((4, model.n_features), np.float32)
    write_trident(tmp_path / "s7.h5", x, CORNERS, encoder="texture", **AT_10X, **SIZE)
    sp.tl.embed(tmp_path / "s7.h5", model, out=tmp_path / "e")
    with pytest.raises(ValueError, match=r"holds what sp\.tl\.embed wrote\. Give the file of the encoder"):
        sp.io.from_trident(slide, tmp_path / "e" / "s7.h5")


def test_functions_that_need_tiles_say_how_a_feature_file_gets_them(trident):
    for function in (sp.pp.tissue, sp.pp.tiles, sp.pp.spatial_context, sp.tl.score_image):
        arguments = {sp.pp.spatial_context: {"use_rep": "features"}, sp.tl.score_image: {"color": "a"}}
        with pytest.raises(ValueError, match=r"sp\.io\.from_trident\(slide, file\)"):
            function(trident, **arguments.get(function, {}))
    with pytest.raises((KeyError, ValueError), match=r"sp\.io\.from_trident\(slide, file\)"):
        sp.pl.slide(trident, color="features:0")
