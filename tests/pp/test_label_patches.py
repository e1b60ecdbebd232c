"""Labels on patches: from polygons, by what covers most; from tables, by name and never by position."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import shapely
from helpers.patches import HALVES, LEFT, PATCH, RIGHT, geojson, got, polygons, section, two_regions
from helpers.sections import circles, no_warning, place_by, tiny, warns_here
from spatialdata import read_zarr
from spatialdata.models import ShapesModel
from spatialdata.transformations import remove_transformation

import spade as sp

# --- polygons: who gets which label


def test_labels_shares_categories_and_provenance(caplog):
    sdata = section()
    with caplog.at_level(logging.INFO, logger="spade"), no_warning():
        sp.pp.label_patches(sdata, polygons(("r", RIGHT), ("l", (0, 0, 150, 400))))
    obs = sdata["table"].obs
    assert got(sdata) == ["l", "l", "l", "r", "r", "r"] * 6  # columns 3 and 4 are half covered
    assert obs["label"].cat.categories.tolist() == ["l", "r"]
    np.testing.assert_allclose(obs["label_share"][:6], [1, 1, 0.5, 0.5, 1, 1])
    facts = sdata["table"].uns["spade"]["label"]
    assert facts["function"] == "pp.label_patches"
    assert (facts["by"], facts["min_share"], facts["patches_key"]) == ("area", 0.5, "patches")
    assert "36 of 36 spots labelled" in caplog.text


def test_least_share():
    sdata = section()
    frame = polygons(("l", (0, 0, 150, 400)), ("r", (210, 0, 400, 400)))
    sp.pp.label_patches(sdata, frame, min_share=0.51, key_added="strict")
    assert got(sdata, "strict")[:6] == ["l", "l", None, None, "r", "r"]
    assert np.isnan(sdata["table"].obs["strict_share"][2:4]).all()
    sp.pp.label_patches(sdata, frame, min_share=0.2, key_added="lax")
    assert got(sdata, "lax")[:6] == [*"lllrrr"]
    assert sdata["table"].obs["lax_share"].iloc[3] == pytest.approx(0.25)
    assert "label" not in sdata["table"].obs


def test_polygons_of_one_label_are_united():
    sdata = section(6)
    twice = polygons(
        ("a", (30, 30, 50, 70)), ("a", (30, 30, 50, 70)), ("b", (47, 30, 70, 70)), ("b", (130, 30, 150, 70))
    )
    sp.pp.label_patches(sdata, twice)  # doubled, "a" would cover more
    assert got(sdata) == ["b", None, "b", None, None, None]
    np.testing.assert_allclose(sdata["table"].obs["label_share"].iloc[[0, 2]], [23 / 40, 0.5])
    parts = shapely.MultiPolygon([shapely.box(30, 30, 45, 70), shapely.box(55, 30, 70, 70)])
    sp.pp.label_patches(sdata, polygons(("m", parts), ("n", (45, 30, 55, 70))))
    assert got(sdata)[0] == "m"
    assert sdata["table"].obs["label_share"].iloc[0] == pytest.approx(0.75)


def test_nested_outlines_go_to_the_smaller_then_to_the_alphabet():
    sdata = section()
    frame = polygons(
        ("tissue", (0, 0, 400, 400)),
        ("tumour", (20, 20, 180, 180)),
        ("b", (300, 0, 400, 400)),
        ("a", (300, 0, 400, 400)),
    )
    for by in ("area", "centre"):
        sp.pp.label_patches(sdata, frame, by=by)
        labels = np.array(got(sdata), dtype=object).reshape(6, 6)
        assert (labels[:3, :3] == "tumour").all()
        assert (labels[3:, :5] == "tissue").all()
        # the last but one column lies on the border of "a" and "b"
        assert (labels[:, 5] == ("tissue" if by == "area" else "a")).all()
        np.testing.assert_allclose(sdata["table"].obs["label_share"].iloc[5], 1 if by == "area" else 0.5)


def test_centre_takes_what_lies_over_it():
    sdata = section(6)
    ring = shapely.box(20, 20, 80, 80).difference(shapely.box(45, 45, 55, 55))
    frame = polygons(("ring", ring), ("core", (45, 45, 55, 55)))
    sp.pp.label_patches(sdata, frame)
    assert got(sdata) == ["ring", None, None, None, None, None]
    sp.pp.label_patches(sdata, frame, by="centre")
    assert got(sdata) == ["core", None, None, None, None, None]
    assert sdata["table"].obs["label_share"].iloc[0] == pytest.approx(100 / 1600)
    assert "min_share" not in sdata["table"].uns["spade"]["label"]


def test_of_patches_across_the_border_the_part_on_the_image_counts():
    sdata = tiny(spots=circles(np.array([[5.0, 100], [200, 100], [-5, 100]])), n=3)
    with pytest.warns(UserWarning, match="off the image"):
        sp.pp.patches(sdata, size_um=PATCH, size_px=40)
    sp.pp.label_patches(sdata, polygons(("l", (0, 0, 100, 400))))
    assert got(sdata) == ["l", None, None]  # the last one's centre is off the image
    assert sdata["table"].obs["label_share"].iloc[0] == 1


def test_one_class_and_unused_categories():
    sdata = section()
    frame = polygons(("x", (0, 0, 400, 400)))
    frame["label"] = pd.Categorical(frame["label"], categories=["x", "never"])
    sp.pp.label_patches(sdata, frame)
    assert sdata["table"].obs["label"].cat.categories.tolist() == ["x"]
    assert got(sdata) == ["x"] * 36


def test_invalid_unlabelled_and_outside_polygons_are_counted():
    bow_tie = shapely.Polygon([(0, 0), (200, 400), (200, 0), (0, 400)])
    off = (1000, 1000, 1010, 1010)
    frame = polygons(("l", bow_tie), (None, RIGHT), (" ", RIGHT), ("r", off))
    sdata = section()
    with (
        warns_here(r"1 of 4 polygons were not valid and are repaired"),
        warns_here(r"2 of 4 polygons have no label and label nothing"),
        warns_here(r"1 of 4 polygons lie outside the image"),
    ):
        sp.pp.label_patches(sdata, frame)
    assert set(got(sdata)) == {"l", None}
    assert sdata["table"].obs["label"].cat.categories.tolist() == ["l", "r"]


def test_microns_per_pixel_of_another_image():
    sdata = section(mpp=0.5)
    frame = polygons(("l", (0, 0, 50, 100)), ("r", (50, 0, 100, 100)))  # drawn at 2 µm/px
    sp.pp.label_patches(sdata, frame, mpp=2)
    assert got(sdata) == HALVES
    assert sdata["table"].uns["spade"]["label"]["mpp"] == 2
    with warns_here(r"'tiny': no patch got a label\. Check min_share=, and mpp="):
        sp.pp.label_patches(sdata, polygons(("l", (0, 0, 10, 10))))
    huge = polygons(("l", (4000, 4000, 5000, 5000)))
    said = (
        r"tiny: all 1 polygons lie outside images\['image'\] of 400 × 400 pixels: they span x 4000 to 5000 .*"
        r"another scale \(0\.5 µm/px here\)\? Then pass mpp="
    )
    with pytest.raises(ValueError, match=said):
        sp.pp.label_patches(sdata, huge)


def test_shapes_element_is_placed_by_its_transformations():
    sdata = section()
    frame = polygons(("l", (0, 0, 20, 40)), ("r", (20, 0, 40, 40)))
    sdata.shapes["drawn"] = ShapesModel.parse(frame)
    place_by(sdata["drawn"], np.array([[20.0, 0, 7], [0, 20, 3], [0, 0, 1]]))
    for element in ("image", "patches"):
        place_by(sdata[element], np.array([[2.0, 0, 7], [0, 2, 3], [0, 0, 1]]))
    sp.pp.label_patches(sdata, "drawn")
    assert got(sdata) == HALVES
    with pytest.raises(ValueError, match=r"mpp=2: the transformations of shapes\['drawn'\] map it to the image"):
        sp.pp.label_patches(sdata, "drawn", mpp=2)
    with pytest.raises(
        KeyError, match=r"annotations='spot' is not among the shapes: .*'spots'.*Files end in \.geojson"
    ):
        sp.pp.label_patches(sdata, "spot")
    with pytest.raises(KeyError, match=r"shapes\['spots'\] has no column 'label' with labels; columns: 'radius'"):
        sp.pp.label_patches(sdata, "spots")
    with pytest.raises(ValueError, match=r"shapes\['spots'\]: 36 of 36 geometries have no area \(36 Point\)"):
        sp.pp.label_patches(sdata, "spots", columns="radius")
    with pytest.raises(
        KeyError, match=r"shapes\['patches'\] has no column 'geometry' .*; columns: 'spade_valid', 'label'"
    ):
        sp.pp.label_patches(sdata, "patches", columns="geometry")
    place_by(sdata["drawn"], np.eye(3), "elsewhere")
    remove_transformation(sdata["drawn"], "global")
    with pytest.raises(ValueError, match=r"have no coordinate system in common: \['elsewhere'\] and \['global'\]"):
        sp.pp.label_patches(sdata, "drawn")


def test_sections_are_labelled_by_name(tmp_path):
    sdata = two_regions()
    frame = polygons(("l", LEFT), ("r", RIGHT))
    (tmp_path / "a.geojson").write_text(geojson(frame))
    flipped = polygons(("l", RIGHT), ("r", LEFT))
    sp.pp.label_patches(sdata, {"tiny/spots": tmp_path / "a.geojson", "tiny/more": flipped})
    regions = sdata["table"].obs["region"] == "spots"
    labels = np.array(got(sdata))
    assert labels[regions].tolist() == HALVES
    assert labels[~regions].tolist() == [*"rrrlll"] * 6
    with warns_here(r"annotations= does not mention 'tiny/more'; labels there are missing"):
        sp.pp.label_patches(sdata, {"tiny/spots": str(tmp_path / "a.geojson")})
    assert sdata["table"].obs["label"].isna().sum() == 36
    with pytest.raises(ValueError, match=r"polygons of one image, but there are 2 sections, 'tiny/.*Pass a dict"):
        sp.pp.label_patches(sdata, frame)
    with pytest.raises(
        KeyError,
        match=r"annotations= names 'tiny', but no sample or section has this name; names: 'tiny/.*other samples",
    ):
        sp.pp.label_patches(sdata, {"tiny": frame})


def test_categories_are_the_same_in_all_samples():
    samples = [section(name="a"), section(name="b")]
    whole = (0, 0, 400, 400)
    sp.pp.label_patches(samples, {"a": polygons(("x", whole)), "b": polygons(("y", whole))})
    assert [got(s)[0] for s in samples] == ["x", "y"]
    assert all(s["table"].obs["label"].cat.categories.tolist() == ["x", "y"] for s in samples)


def test_whole_numbers_are_one_class_whatever_their_type():
    """A column of numbers with one that is missing is one of floats."""
    samples = [section(name="a"), section(name="b")]
    whole, missing = polygons((1, LEFT), (2, RIGHT)), polygons((1, LEFT), (np.nan, RIGHT))
    sp.pp.label_patches(samples, {"a": whole, "b": missing})
    found = [sample["table"].obs["label"] for sample in samples]
    assert [set(labels.dropna()) for labels in found] == [{"1", "2"}, {"1"}]
    assert [list(labels.cat.categories) for labels in found] == [["1", "2"]] * 2


def test_stores_are_saved_and_read_back_alike(tmp_path):
    sdata = section()
    path = tmp_path / "s.zarr"
    sp.io.write(sdata, path)
    frame = polygons(("l", (0, 0, 100, 400)))
    stages = pd.DataFrame({"sample": ["tiny"], "stage": ["II"], "age": [61], "months": [3.5], "dead": [True]})
    spots = pd.DataFrame({"spot": ["s03", "s00"], "hand": ["y", "x"], "count": [3, 0], "sure": [True, False]})
    for samples in (sdata, path):
        sp.pp.label_patches(samples, frame)
        sp.pp.label_patches(samples, stages)
        sp.pp.label_patches(samples, spots)
    sp.io.write(sdata, tmp_path / "t.zarr")
    for store in ("s.zarr", "t.zarr"):
        again = read_zarr(tmp_path / store)["table"]
        pd.testing.assert_frame_equal(again.obs, sdata["table"].obs, check_dtype=False)
        assert again.uns["spade"] == sdata["table"].uns["spade"]
    assert again.uns["spade"]["stage"]["by"] == "sample"
    assert again.uns["spade"]["hand"]["by"] == "spot"


@pytest.mark.parametrize(
    ("frame", "options", "error", "said"),
    [
        (polygons((None, LEFT)), {}, ValueError, r"none of the 1 polygons has a label in column 'label'"),
        (polygons(("a", LEFT)), {"columns": "class"}, KeyError, r"no column 'class' with labels; columns: 'label'"),
        (polygons(("a", LEFT)), {"columns": ["label"]}, ValueError, r"polygons have one column of labels"),
        (polygons(("a", LEFT)).iloc[:0], {}, ValueError, r"holds no polygons"),
        (
            polygons(("a", shapely.Point(1, 1))),
            {},
            ValueError,
            r"1 of 1 geometries have no area \(1 Point\).*row 0 \(a\)",
        ),
        (
            polygons(("a", shapely.Polygon()), ("b", None)),
            {},
            ValueError,
            r"2 of 2 geometries are empty: row 0 \(a\), row 1",
        ),
        (
            polygons(("a", shapely.Polygon([(0, 0), (np.nan, 1), (1, 1)]))),
            {},
            ValueError,
            r"coordinates that are NaN or infinite: row 0 \(a\)",
        ),
        (polygons(("a", LEFT)), {"by": "most"}, ValueError, r"by='most': expected one of 'area', 'centre'"),
        (polygons(("a", LEFT)), {"min_share": 0}, ValueError, r"min_share=0: expected a number above 0"),
        (polygons(("a", LEFT)), {"mpp": -1}, ValueError, r"mpp=-1: expected a positive number"),
        (polygons(("a", LEFT)), {"key_added": "a b"}, ValueError, r"key_added='a b' cannot be stored"),
        (
            polygons(("a", LEFT)),
            {"key_added": "region"},
            ValueError,
            r"obs\['region'\], because this name is in use\. Choose",
        ),
        (polygons(("a", LEFT)), {"key_added": "patches"}, ValueError, r"this name is in use by sp\.pp\.patches"),
        (
            polygons(("a", LEFT)),
            {"patches_key": "tiles"},
            KeyError,
            r"patches_key='tiles' is not there; patches: 'patch",
        ),
        ({}, {}, ValueError, r"annotations= is an empty dict; sections: 'tiny'"),
        ({"tiny": 3}, {}, TypeError, r"annotations\['tiny'\]: got int; expected a GeoDataFrame, a path"),
        ({"tiny": "a.csv"}, {}, ValueError, r"annotations\['tiny'\]='a\.csv': polygons are read from \.geojson"),
        ("gone.geojson", {}, FileNotFoundError, r"annotations: there is no file 'gone\.geojson'"),
        ("gone.csv", {}, FileNotFoundError, r"annotations: there is no file 'gone\.csv'"),
        (7, {}, TypeError, r"annotations: got int; expected"),
    ],
)
def test_what_cannot_be_is_refused(frame, options, error, said):
    sdata = section(6)
    before = sdata["table"].obs.copy()
    with pytest.raises(error, match=said):
        sp.pp.label_patches(sdata, frame, **options)
    pd.testing.assert_frame_equal(sdata["table"].obs, before)


def test_every_region_needs_patches():
    sdata = tiny(36)
    with pytest.raises(KeyError, match=r"patches_key='patches' is not there; patches: none"):
        sp.pp.label_patches(sdata, polygons(("a", LEFT)))
    two = two_regions()
    del two["table"].uns["spade"]["patches"]["regions"]["more"]
    with pytest.raises(KeyError, match=r"tiny/more has no patches; run sp\.pp\.patches for every region first"):
        sp.pp.label_patches(two, {"tiny/more": polygons(("a", LEFT))})


# --- real sections


@pytest.mark.realdata
def test_layers_of_a_real_section_come_back_from_polygons(data_dir, tmp_path):
    folder = data_dir / "mob" / "MOB_01"
    sdata = sp.io.read_st(None, folder / "01.jpg", labels=folder / "01_01.tsv", sample_id="MOB_01")
    sp.pp.patches(sdata)
    obs = sdata["table"].obs
    x, y = sdata["table"].obsm["spatial"].T
    half = 99 / sdata.attrs["spade"]["mpp"]["image"]  # just short of half the pitch of 200 µm
    squares = pd.Series(list(shapely.box(x - half, y - half, x + half, y + half)), index=obs.index)
    layers = obs["label"].cat.categories
    assert len(layers) == 5
    drawn = polygons(*((layer, shapely.union_all(squares[obs["label"] == layer].tolist())) for layer in layers))
    path = tmp_path / "layers.geojson"
    path.write_text(geojson(drawn))
    assert len(sp.io.read_annotations(path)) == 5
    for by in ("area", "centre"):
        sp.pp.label_patches(sdata, path, by=by, key_added="drawn")
        assert got(sdata, "drawn") == got(sdata, "label")
        np.testing.assert_allclose(sdata["table"].obs["drawn_share"].dropna(), 1)
    sp.pp.label_patches(sdata, drawn.iloc[1:], key_added="drawn")  # without the first layer
    assert got(sdata, "drawn") == [label if label != layers[0] else None for label in got(sdata)]
    (tmp_path / "spots.csv").write_text(obs["label"].rename_axis("spot").iloc[::-1].to_csv())
    sp.pp.label_patches(sdata, tmp_path / "spots.csv", key_added="joined")
    assert got(sdata, "joined") == got(sdata, "label")
