"""Results as objects of QuPath: written and read again they are the same, at the right place, with their colours."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pandas as pd
import pytest
import shapely
from helpers.sections import circles, picture, tiny
from helpers.whole_slides import MPP, pieces, slide_of
from shapely import box
from spatialdata.transformations import Affine, Identity, Scale, set_transformation

import spade as sp
from spade.io._export.qupath import Objects, write_objects


def features(path):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        return json.load(file)["features"]


@pytest.fixture(scope="module")
def _tiled():
    slide = slide_of(pieces()[0])
    sp.pp.tissue(slide, mpp=MPP)
    sp.pp.tiles(slide, size_px=56)
    table = slide["tiles_table"]
    table.obs["side"] = pd.Categorical(np.where(table.obsm["spatial"][:, 0] < 750, "left", "right"))
    table.uns["side_colors"] = ["#ff0000", "navy"]
    return slide


@pytest.fixture
def tiled(_tiled):
    """A slide with tiles on two pieces of tissue, and a column that tells the pieces apart."""
    from conftest import fresh

    return fresh(_tiled)


@pytest.mark.parametrize("name", ["a.geojson", "a.json", "a.geojson.gz"])
def test_polygons_labels_and_order_come_back(tiled, tmp_path, name):
    table = tiled["tiles_table"]
    table.obs.loc[table.obs_names[3], "side"] = np.nan
    sp.io.write_annotations(tiled, tmp_path / name, color="side")
    read = sp.io.read_annotations(tmp_path / name)
    assert read["label"].fillna("none").tolist() == table.obs["side"].astype(object).fillna("none").tolist()
    assert (read.geometry.to_numpy() == tiled["tiles"].geometry.to_numpy()).all()
    assert set(read["object_type"]) == {"detection"}
    first = features(tmp_path / name)[0]["properties"]
    assert first["classification"] == {"name": "left", "color": [255, 0, 0]}
    assert first["metadata"] == {"id": table.obs_names[0]}
    assert "classification" not in features(tmp_path / name)[3]["properties"]


def test_colours_have_the_names_of_matplotlib_too(tiled, tmp_path):
    sp.io.write_annotations(tiled, tmp_path / "a.json", color="side", object_type="annotation")
    last = features(tmp_path / "a.json")[-1]["properties"]
    assert last["objectType"] == "annotation"
    assert last["classification"] == {"name": "right", "color": [0, 0, 128]}
    tiled["tiles_table"].uns["side_colors"] = ["#ff0000", "no colour"]
    with pytest.raises(ValueError, match="has 'no colour', which is no colour"):
        sp.io.write_annotations(tiled, tmp_path / "a.json", color="side")
    for stored in (["#ff0000"], ["#ff0000", "#00ff00", "#0000ff"]):  # too few, or of other categories: QuPath chooses
        tiled["tiles_table"].uns["side_colors"] = stored
        sp.io.write_annotations(tiled, tmp_path / "a.json", color="side")
        assert features(tmp_path / "a.json")[0]["properties"]["classification"] == {"name": "left"}


def test_numbers_of_every_kind_are_measurements(sample, tmp_path):
    table = sample["table"]
    table.obs["share"] = np.where(np.arange(table.n_obs) == 1, np.nan, 0.1)
    table.obs["flag"] = np.arange(table.n_obs) < 1
    table.obsm["pair"] = pd.DataFrame(np.float32([[0.1, 2]] * table.n_obs), index=table.obs_names, columns=["a", "b"])
    gene = table.var_names[7]
    asked = ["share", "flag", gene, "spatial", "pair"]
    sp.io.write_annotations(sample, tmp_path / "a.json", measurements=asked)
    objects = features(tmp_path / "a.json")
    x, y = table.obsm["spatial"][0]
    count = float(table[:, gene].X.toarray()[0, 0])
    expected = {"share": 0.1, "flag": 1, gene: count, "spatial: 0": x, "spatial: 1": y, "pair: a": 0.1, "pair: b": 2}
    assert objects[0]["properties"]["measurements"] == expected
    assert set(objects[1]["properties"]["measurements"]) == set(expected) - {"share"}
    table.layers["log"] = table.X * 2
    sp.io.write_annotations(sample, tmp_path / "a.json", measurements=gene, layer="log")
    assert features(tmp_path / "a.json")[0]["properties"]["measurements"] == {gene: 2 * count}


def test_experts_on_patches_with_their_colours(sample, model, tmp_path):
    sp.tl.embed(sample, model)
    sp.io.write_annotations(
        sample, tmp_path / "a.json", color="spade_expert", shapes_key="patches", measurements="X_spade"
    )
    table = sample["table"]
    read = sp.io.read_annotations(tmp_path / "a.json")
    assert read["label"].tolist() == table.obs["spade_expert"].tolist()
    assert (read.geometry.to_numpy() == sample["patches"].geometry.loc[table.obs["spot_id"]].to_numpy()).all()
    code = table.obs["spade_expert"].cat.codes.iloc[0]
    red = int(table.uns["spade_expert_colors"][code][1:3], 16)
    first = features(tmp_path / "a.json")[0]["properties"]
    assert first["classification"]["color"][0] == red
    written = [first["measurements"][f"X_spade: {i}"] for i in range(3)]
    np.testing.assert_array_equal(np.float32(written), table.obsm["X_spade"][0, :3])
    sp.pp.encode_patches(sample)  # the same again changes nothing
    sp.io.write_annotations(sample, tmp_path / "a.json", color="spade_expert")
    sp.pp.patches(sample, size_um=90)
    with pytest.raises(ValueError, match="'spade_expert' is outdated"):
        sp.io.write_annotations(sample, tmp_path / "a.json", color="spade_expert")


def test_spots_become_round_and_keep_their_place_under_transformations(tmp_path):
    sdata = tiny()
    set_transformation(sdata["spots"], {"global": Scale([2.0, 2.0], axes=("x", "y"))}, set_all=True)
    turned = Affine([[0, -1, 7], [1, 0, 3], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
    key = next(iter(sdata.images))
    set_transformation(sdata[key], {"global": turned}, set_all=True)
    sp.io.write_annotations(sdata, tmp_path / "a.json")
    read = sp.io.read_annotations(tmp_path / "a.json")
    x, y = 2 * sdata["spots"].geometry.x.to_numpy(), 2 * sdata["spots"].geometry.y.to_numpy()
    np.testing.assert_allclose(read.centroid.x, y - 3, atol=1e-9)  # x' = 7 - row, y' = 3 + column
    np.testing.assert_allclose(read.centroid.y, 7 - x, atol=1e-9)
    np.testing.assert_allclose(np.sqrt(read.area / np.pi), 2 * sdata["spots"]["radius"], rtol=0.01)


def test_one_class_becomes_one_outline_per_piece(tiled, tmp_path):
    sp.io.write_annotations(tiled, tmp_path / "a.json", color="side", dissolve=True)
    read = sp.io.read_annotations(tmp_path / "a.json")
    assert read["label"].tolist() == ["left", "right"]
    assert read.area.sum() == pytest.approx(tiled["tiles"].area.sum(), rel=1e-6)
    again = sp.pp.label_patches(tiled, {"slide_1": read}, table_key="tiles")
    assert again is None
    assert (tiled["tiles_table"].obs["label"].astype(str) == tiled["tiles_table"].obs["side"].astype(str)).all()
    tiled["tiles_table"].obs["side"] = tiled["tiles_table"].obs["side"].where(np.arange(len(tiled["tiles"])) < 0)
    with pytest.raises(ValueError, match="there is nothing to dissolve"):
        sp.io.write_annotations(tiled, tmp_path / "a.json", color="side", dissolve=True)


def test_tissue_with_its_own_columns(tiled, tmp_path):
    sp.io.write_annotations(tiled, tmp_path / "a.json", shapes_key="tissue", measurements="area_mm2")
    read = sp.io.read_annotations(tmp_path / "a.json")
    assert (read.geometry.to_numpy() == tiled["tissue"].geometry.to_numpy()).all()
    areas = [one["properties"]["measurements"]["area_mm2"] for one in features(tmp_path / "a.json")]
    np.testing.assert_allclose(areas, tiled["tissue"]["area_mm2"])
    with pytest.raises(KeyError, match="color='side' is not a column; there are 'area_mm2'"):
        sp.io.write_annotations(tiled, tmp_path / "a.json", shapes_key="tissue", color="side")


def test_rows_are_joined_to_shapes_by_id(tiled, tmp_path):
    order = np.random.default_rng(0).permutation(len(tiled["tiles"]))
    before = tiled["tiles"].copy()
    tiled.shapes["tiles"] = tiled["tiles"].iloc[order]
    sp.io.write_annotations(tiled, tmp_path / "a.json")
    assert (sp.io.read_annotations(tmp_path / "a.json").geometry.to_numpy() == before.geometry.to_numpy()).all()
    tiled.shapes["tiles"] = before.iloc[1:]
    with pytest.raises(KeyError, match=r"1 of .* rows .* have no shape in shapes"):
        sp.io.write_annotations(tiled, tmp_path / "a.json")


def test_one_of_several_images_is_named(tmp_path):
    sdata = tiny()
    key = next(iter(sdata.images))
    sdata.images["coarse"] = picture()
    set_transformation(sdata["coarse"], {"global": Scale([4.0, 4.0], axes=("x", "y"))}, set_all=True)
    with pytest.raises(ValueError, match="image_key=None: 2 images share"):
        sp.io.write_annotations(sdata, tmp_path / "a.json")
    sp.io.write_annotations(sdata, tmp_path / "a.json", image_key="coarse")
    coarse = sp.io.read_annotations(tmp_path / "a.json").centroid
    sp.io.write_annotations(sdata, tmp_path / "a.json", image_key=key)
    fine = sp.io.read_annotations(tmp_path / "a.json").centroid
    np.testing.assert_allclose(fine.x, 4 * coarse.x)
    sp.pp.patches(sdata, image_key=key, mpp=1.0, size_um=30, size_px=30)
    sp.io.write_annotations(sdata, tmp_path / "a.json")  # now it is known which
    assert sp.io.read_annotations(tmp_path / "a.json").centroid.x.tolist() == fine.x.tolist()
    set_transformation(sdata["spots"], {"elsewhere": Identity()}, set_all=True)
    with pytest.raises(ValueError, match="have no coordinate system in common"):
        sp.io.write_annotations(sdata, tmp_path / "a.json")


def test_a_store_is_written_as_its_object_is(tiled, tmp_path):
    sp.io.write_annotations(tiled, tmp_path / "a.json", color="side")
    sp.io.write(tiled, tmp_path / "slide.zarr")
    sp.io.write_annotations(str(tmp_path / "slide.zarr"), tmp_path / "b.json", color="side")
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"path": "a.csv"}, ValueError, "expected a name that ends in .geojson or .json"),
        ({"path": "no/a.json"}, FileNotFoundError, "there is no folder"),
        ({"sdata": 3}, TypeError, "sdata: got int"),
        ({"sdata": "no.zarr"}, FileNotFoundError, "there is no store"),
        ({"color": "no"}, KeyError, "color='no' is not a column"),
        ({"color": "tissue_share"}, TypeError, "is a column of numbers"),
        ({"measurements": "no"}, KeyError, "neither a column nor a gene nor an obsm key"),
        ({"measurements": "side"}, TypeError, "is a column of category, not of numbers"),
        ({"measurements": ["tile_row", "tile_row"]}, ValueError, "has 'tile_row' more than once"),
        ({"measurements": 3}, TypeError, "expected a list of names"),
        ({"measurements": "tile_row", "layer": "no"}, KeyError, "layer='no' is not there; layers: none"),
        ({"layer": "no"}, ValueError, "no genes are written; leave layer= out"),
        (
            {"measurements": "tile_row", "layer": "counts"},
            ValueError,
            "layer='counts': .*has no gene; leave layer= out",
        ),
        ({"shapes_key": "no"}, KeyError, "shapes_key='no' is not there; shapes: 'tissue', 'tiles'"),
        ({"shapes_key": "tissue", "region": "tiles"}, ValueError, "leave region= out"),
        ({"table_key": "no"}, KeyError, "table_key='no' is not there"),
        ({"region": "no"}, ValueError, "region='no': .* has the regions 'tiles'"),
        ({"image_key": "no"}, KeyError, "image_key='no' is not there; images: 'he'"),
        ({"object_type": "cell"}, ValueError, "object_type='cell': expected one of"),
        ({"dissolve": True}, ValueError, "name the column with color="),
        ({"dissolve": True, "color": "side", "measurements": "tile_row"}, ValueError, "merged outlines have none"),
        ({"dissolve": "yes"}, ValueError, "dissolve='yes': expected True or False"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(tiled, tmp_path, monkeypatch, options, error, match):
    monkeypatch.chdir(tmp_path)
    if options.get("layer") == "counts":
        tiled["tiles_table"].layers["counts"] = tiled["tiles_table"].X
    with pytest.raises(error, match=match):
        sp.io.write_annotations(**{"sdata": tiled, "path": "a.json"} | options)
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith("lock")]


def test_a_name_in_several_places_is_refused(tiled, tmp_path):
    tiled["tiles_table"].obsm["tile_row"] = np.zeros((len(tiled["tiles"]), 2))
    with pytest.raises(ValueError, match="'tile_row' is in obs and in obsm"):
        sp.io.write_annotations(tiled, tmp_path / "a.json", measurements="tile_row")


def test_several_tables_and_regions_are_named(tiled, tmp_path):
    table = tiled["tiles_table"].copy()
    tiled.tables["again"] = table
    with pytest.raises(ValueError, match=r"2 tables could be written \('tiles_table', 'again'\)"):
        sp.io.write_annotations(tiled, tmp_path / "a.json")
    sp.io.write_annotations(tiled, tmp_path / "a.json", table_key="tiles")
    del tiled.tables["again"], tiled.tables["tiles_table"]
    with pytest.raises(ValueError, match="0 tables could be written"):
        sp.io.write_annotations(tiled, tmp_path / "a.json")


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    broken = Objects(np.array([box(0, 0, 1, 1), None], dtype=object), ["a", "b"], ["", ""])
    with pytest.raises(AttributeError):
        write_objects(path, broken, "tile")
    assert path.read_text() == "old"
    assert not list(tmp_path.glob(".*part"))


def test_holes_parts_and_odd_names_come_back(tmp_path):
    ring = box(0, 0, 9, 9).difference(box(2, 2, 4.5, 4))
    shapes = np.array([ring, shapely.MultiPolygon([box(0, 0, 1, 1), box(5, 5, 7, 7)])], dtype=object)
    write_objects(tmp_path / "a.json", Objects(shapes, ['é"', "\u2028"], ['Tumör: "x"', "肿瘤"]), "annotation")
    read = sp.io.read_annotations(tmp_path / "a.json")
    assert read["label"].tolist() == ['Tumör: "x"', "肿瘤"]
    assert (read.geometry.to_numpy() == shapes).all()


@pytest.mark.slow
def test_a_hundred_thousand_tiles_are_written_piece_by_piece(tmp_path):
    import tracemalloc

    x, y = np.divmod(np.arange(100_000), 400) * np.array([[56.0], [56.0]])
    polygons = shapely.box(x, y, x + 56, y + 56)
    objects = Objects(polygons, [f"tile_{i}" for i in range(len(x))], ["a"] * len(x))
    tracemalloc.start()
    write_objects(tmp_path / "a.json", objects, "tile")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "a.json").stat().st_size > 20_000_000
    assert peak < 2_000_000
    assert len(features(tmp_path / "a.json")) == 100_000


def test_circles_of_different_sizes(tmp_path):
    sdata = tiny()
    frame = circles(np.array([[50.0, 50.0]]), 4.0, ids=["a"])
    sdata.shapes["marks"] = frame
    sp.io.write_annotations(sdata, tmp_path / "a.json", shapes_key="marks", measurements="radius")
    assert features(tmp_path / "a.json")[0]["properties"]["measurements"] == {"radius": 4}


def test_tiles_on_earlier_tissue_are_refused(tiled, tmp_path):
    sp.pp.tissue(tiled, min_area_mm2=0.9)
    with pytest.raises(
        ValueError, match=r"shapes\['tiles'\] are outdated: 'tissue' was written anew .*Run sp.pp.tiles"
    ):
        sp.io.write_annotations(tiled, tmp_path / "a.json", measurements="tissue_share")
    sp.io.write_annotations(tiled, tmp_path / "b.json", shapes_key="tissue", measurements="area_mm2")
    assert not (tmp_path / "a.json").exists()
