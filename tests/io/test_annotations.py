"""What QuPath and spreadsheets write, and what is wrong with such files."""

from __future__ import annotations

import gzip
import json
import logging

import numpy as np
import pandas as pd
import pytest
import shapely
from geopandas import GeoDataFrame
from helpers.sections import no_warning, warns_here

import spade as sp

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
BOW_TIE = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]


def feature(coordinates=None, kind="Polygon", *, label="Tumor", geometry=..., id="x", **properties):
    classification = {"classification": {"name": label, "color": [200, 0, 0]}} if label else {}
    if geometry is ...:
        geometry = {"type": kind, "coordinates": [SQUARE] if coordinates is None else coordinates}
    return {
        "type": "Feature",
        "id": id,
        "geometry": geometry,
        "properties": {"objectType": "annotation", **classification, **properties},
    }


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


@pytest.fixture
def read(tmp_path):
    """Write something as a file and read it."""

    def read(content, name="a.geojson", **options):
        text = content if isinstance(content, (str, bytes)) else json.dumps(content)
        data = text.encode() if isinstance(text, str) else text
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return sp.io.read_annotations(tmp_path / name, **options)

    return read


# --- GeoJSON


@pytest.mark.parametrize("wrap", [collection, lambda *f: list(f), lambda *f: f[0]], ids=["collection", "list", "one"])
@pytest.mark.parametrize("name", ["a.geojson", "a.json", "A.GeoJSON", "a.b.geojson.gz"])
def test_every_form_that_qupath_writes(read, wrap, name):
    with no_warning():
        frame = read(wrap(feature(name="left")), name)
    assert isinstance(frame, GeoDataFrame)
    assert list(frame.columns) == ["label", "name", "object_type", "geometry"]
    assert frame.crs is None
    assert frame.iloc[0, :3].tolist() == ["Tumor", "left", "annotation"]
    assert frame.geometry[0].equals(shapely.box(0, 0, 10, 10))


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ({"classification": {"name": "Tumor: Positive"}}, "Tumor: Positive"),
        ({"classification": {"names": ["Tumor", "Positive"]}}, "Tumor: Positive"),
        ({"classification": " Stroma "}, "Stroma"),
        ({"classification": {"name": "Tumor"}, "name": "ROI 1"}, "Tumor"),
        ({"name": "ROI 1"}, "ROI 1"),
        ({"classification": None, "name": "ROI 1"}, "ROI 1"),
        ({"classification": {"colorRGB": -1}, "name": ""}, None),
        ({}, None),
    ],
)
def test_label_is_the_class_else_the_name(read, given, label):
    assert read(feature(label=None, **given))["label"].tolist() == [label]


def test_object_types_old_and_new(read):
    old = [feature(id=f"Path{kind}Object", objectType=None) for kind in ("Annotation", "Detection", "Cell", "Tile")]
    frame = read([*old, feature(objectType=None, object_type="Cell"), feature(objectType=None), feature(id=7)])
    expected = ["annotation", "detection", "cell", "tile", "cell", "", "annotation"]
    assert frame["object_type"].fillna("").tolist() == expected
    frame = read([*old, feature()], object_types="annotation")
    assert len(frame) == 2
    frame = read([*old, feature()], object_types=["cell", "tile"])
    assert frame["object_type"].tolist() == ["cell", "tile"]


def test_multipart_polygons_holes_third_coordinates_and_nan_measurements(read):
    hole = [[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]
    far = [[x + 20, y, 3] for x, y in SQUARE]
    with no_warning():
        frame = read(
            collection(
                feature([[SQUARE, hole], [far]], "MultiPolygon", measurements={"Mean": float("nan")}),
                feature([SQUARE, hole], nucleusGeometry={"type": "Polygon"}),
            )
        )
    assert frame.geometry.area.tolist() == [196, 96]
    assert frame.geom_type.tolist() == ["MultiPolygon", "Polygon"]
    assert not frame.geometry.has_z.any()


def test_invalid_polygons_are_repaired_with_one_warning(read):
    line = {"type": "LineString", "coordinates": [[0, 0], [50, 50]]}
    area = {"type": "Polygon", "coordinates": [SQUARE]}
    overlapping = [[SQUARE], [[[x + 5, y] for x, y in SQUARE]]]
    spike = [[0, 0], [10, 0], [10, 10], [10, 30], [10, 10], [0, 10], [0, 0]]
    with warns_here(r"a\.geojson: repaired 6 of 7 polygons .*; only areas are kept") as record:
        frame = read(
            collection(
                feature([BOW_TIE]),
                feature([SQUARE[:-1]]),  # not closed
                feature(geometry={"type": "GeometryCollection", "geometries": [line, area]}),
                feature(overlapping, "MultiPolygon"),
                feature([spike]),
                feature([SQUARE, [[1, 1], [2, 2]]]),  # a hole that is none
                feature(),
            )
        )
    assert len(record) == 1
    assert frame.geometry.is_valid.all()
    assert set(frame.geom_type) == {"Polygon", "MultiPolygon"}
    assert frame.geometry.area.tolist() == pytest.approx([50, 100, 100, 150, 100, 100, 100])


POINT = {"type": "Point", "coordinates": [1, 1]}


def test_points_and_lines_are_refused_or_left_out(read, caplog):
    content = collection(
        feature(),
        feature([1, 1], "Point", objectType="detection"),
        feature([[1, 1]], "MultiPoint"),
        feature([[1, 1], [2, 2]], "LineString"),
        feature(geometry={"type": "GeometryCollection", "geometries": [POINT]}),
    )
    said = (
        r"4 of 5 features have no area \(1 LineString, 1 MultiPoint, 2 Point\), but labels need polygons\. .*"
        r"other_geometry='skip'\), or read some of its object_types= \(there are 4 annotation, 1 detection\)"
    )
    with pytest.raises(ValueError, match=said):
        read(content)
    with caplog.at_level(logging.INFO, logger="spade"):
        assert len(read(content, other_geometry="skip")) == 1
    assert "left out 4 of 5 features that have no area (1 LineString, 1 MultiPoint, 2 Point)" in caplog.text
    assert len(read(content["features"][:2], object_types="annotation")) == 1
    with pytest.raises(ValueError, match=r"no feature is an area \(1 Point\)"):
        read(content["features"][1], other_geometry="skip")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps(collection(feature()))[:-40], r"cannot be read as JSON .*was the file cut off"),
        ("label,x\na,1\n", r"cannot be read as JSON"),
        ("", r"cannot be read as JSON"),
        ("[" * 100_000, r"nested too deeply"),
        (b"\xff\xfe\x00{", r"not a UTF-8 text file"),
        ('{"a": 1}', r"holds no GeoJSON features \(got keys 'a'\)"),
        ('{"type": "Topology"}', r"holds no GeoJSON features \(got type 'Topology'\)"),
        ("3", r"holds no GeoJSON features \(got int\)"),
        ("[1, 2]", r"holds no GeoJSON features \(got list\)"),
        ({"type": "FeatureCollection", "features": {}}, r"holds no GeoJSON features"),
        ([], r"holds no features"),
        (feature(geometry=None), r"feature 0 \(Tumor\) has an empty geometry"),
        (feature([]), r"1 of 1 geometries are empty: feature 0 \(Tumor\)"),
        (
            collection(feature(), feature([[[0, 0], [1, 1], [0, 0]]])),
            r"1 of 2 geometries are empty: feature 1 \(Tumor\)",
        ),
        (feature([[[0, 0], [1, 1], [2, 2], [0, 0]]]), r"empty, as they enclose no area: feature 0 \(Tumor\)"),
        (feature([[[0, 0], [1, float("nan")], [2, 2], [0, 0]]]), r"feature 0 \(Tumor\) has coordinates that are NaN"),
        (json.dumps(feature()).replace("10", "1e999"), r"NaN or infinite"),
        (feature([[["0", "0"], ["1", "0"], ["1", "1"]]]), r"not lists of numbers"),
        (feature([[[0, 0], [1], [2, 2]]]), r"points of unequal length"),
        (feature([[0, 0], [1, 1]]), r"not lists of numbers"),
        (feature(7), r"has no list of coordinates"),
        (feature(kind="Circle"), r"a geometry of type 'Circle'"),
        (feature(geometry="POLYGON"), r"a geometry of type None"),
    ],
)
def test_files_that_are_no_annotations(read, content, said):
    with pytest.raises(ValueError, match=said):
        read(content)


def test_truncated_gzip_size_name_and_absence(read, tmp_path):
    whole = gzip.compress(json.dumps(collection(*[feature()] * 50)).encode())
    with pytest.raises(ValueError, match=r"cannot be read as a file .*download it again"):
        read(whole[:-20])
    for name in ("a.geojson", "a.geojson.gz"):
        with pytest.raises(ValueError, match=r"holds more than 100 bytes\. Export less .*max_bytes="):
            read(feature(), name, max_bytes=100)
    with pytest.raises(ValueError, match=r"more than 20 bytes"):
        read("sample,label\n" + "a,b\n" * 9, "a.csv", max_bytes=20)
    with pytest.raises(
        ValueError, match=r"neither a suffix of GeoJSON \(\.geojson, \.json\) nor one of a table \(\.csv"
    ):
        read(feature(), "a.xml")
    with pytest.raises(FileNotFoundError, match=r"there is no file"):
        sp.io.read_annotations(tmp_path / "none.geojson")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "a.geojson",
            {"object_types": "cell"},
            r"object_types= names 'cell', which the file does not hold; .* 1 annotation",
        ),
        ("a.geojson", {"object_types": []}, r"object_types= is empty"),
        ("a.geojson", {"other_geometry": "drop"}, r"other_geometry='drop': expected one of 'error', 'skip'"),
        ("a.geojson", {"sample_col": "s"}, r"sample_col= is for a table, which 'a\.geojson' is not"),
        (
            "a.csv",
            {"object_types": "cell", "other_geometry": "skip"},
            r"object_types= and other_geometry= are for GeoJSON",
        ),
    ],
)
def test_options_that_have_no_meaning(read, name, options, said):
    with pytest.raises(ValueError, match=said):
        read(feature(), name, **options)


# --- tables


def test_spot_labels(read):
    frame = read("Slide ID,Barcode,layer,score\nA, AAAC-1 ,L1 ,0.5\nA,AAAG-1,,\nB,AAAC-1,NA,2\n\n", "a.csv")
    assert list(frame.columns) == ["sample", "spot", "layer", "score"]
    assert type(frame) is pd.DataFrame
    assert frame["sample"].tolist() == ["A", "A", "B"]
    assert frame["spot"].tolist() == ["AAAC-1", "AAAG-1", "AAAC-1"]
    assert frame["layer"][0] == "L1"
    assert frame["layer"].isna().tolist() == [False, True, True]
    np.testing.assert_array_equal(frame["score"], [0.5, np.nan, 2])


@pytest.mark.parametrize("column", ["sample", "sample_id", "Slide", "slide_id", "SECTION", "section id", "ID"])
def test_usual_names_of_the_sample(read, column):
    frame = read(f"patient\t{column}\n007\t1\n008\t02\n", "a.tsv.gz")
    assert list(frame.columns) == ["sample", "patient"]
    assert frame["sample"].tolist() == ["1", "02"]
    assert frame["patient"].tolist() == ["007", "008"]  # names, not numbers


@pytest.mark.parametrize("column", ["spot", "spot_id", "barcode", "instance_id", "Cell ID"])
def test_usual_names_of_the_spot(read, column):
    assert list(read(f"{column};label\na;x\n", "a.txt").columns) == ["spot", "label"]


def test_columns_keep_their_kind(read):
    text = '\ufeffsample,n,m,x,y,text,"a, b"\ns1,1,1,1e+3,-2.5,x,"u,v"\ns2,2,,2.0,3,NaN,w\n'
    frame = read(text, "a.csv")
    assert [str(kind) for kind in frame.dtypes] == [
        "object",
        "int64",
        "Int64",
        "float64",
        "float64",
        "object",
        "object",
    ]
    assert frame["a, b"].tolist() == ["u,v", "w"]
    assert frame["x"].tolist() == [1000, 2]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1.1", "1.10", "1.2"], None),  # clusters of clusters
        (["1.10", "1.2"], None),  # the same ones, of another sample
        (["1E2", "10E1"], None),  # patients, and ends of hex ids
        (["12e5", "3"], None),
        (["1234567890123456789", "1234567890123456788"], None),  # one float
        (["2.10", "2.10"], [2.1, 2.1]),
        (["1.50", "0.25", "3"], [1.5, 0.25, 3]),
        (["1.5", "0.25", "1.0", "2"], [1.5, 0.25, 1, 2]),
        (["1e-05", "0.1", "2.0E3"], [1e-5, 0.1, 2000]),
        (["123456789012345678", "7"], [123456789012345678, 7]),
    ],
)
def test_names_that_look_like_numbers_stay_names(read, texts, expected):
    lines = "".join(f"s{i},{text}\n" for i, text in enumerate(texts))
    frame = read(f"sample,value\n{lines}", "a.csv")
    assert frame["value"].tolist() == (texts if expected is None else expected)


def test_keys_may_be_chosen(read):
    text = ",slide,sample,label\nc1,V1,a,x\nc2,V1,a,y\n"
    with pytest.raises(
        ValueError, match=r"several columns may be meant, 'slide', 'sample'\. Choose one with sample_col="
    ):
        read(text, "a.csv")
    with pytest.raises(
        ValueError, match=r"a column '' stands beside .*Give it a name, or choose with sample_col= or spot"
    ):
        read(text.replace("slide", "lot"), "a.csv")
    with pytest.raises(ValueError, match=r"a column 'sample' stands beside .*Rename it"):
        read(text, "a.csv", sample_col="slide", spot_col="")
    frame = read(text, "a.csv", sample_col="sample", spot_col="")
    assert list(frame.columns) == ["sample", "spot", "slide", "label"]
    assert frame["spot"].tolist() == ["c1", "c2"]
    with pytest.raises(KeyError, match=r"spot_col='bar' is not a column; columns: '', 'slide', 'sample', 'label'"):
        read(text, "a.csv", spot_col="bar", sample_col="sample")
    with pytest.raises(ValueError, match=r"sample_col= and spot_col= are both 'slide'"):
        read(text, "a.csv", spot_col="slide", sample_col="slide")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sample,label\n", r"no more than one line"),
        ("", r"no more than one line"),
        ("a,b\n1,2\n", r"no column that names samples or spots; columns: 'a', 'b'\. Name it with"),
        ("sample\na\n", r"nothing but sample; expected at least one column of labels"),
        ("sample,spot\na,b\n", r"nothing but sample and spot"),
        ("sample,label\na,x\na,y\n", r"samples occur more than once: 'a'\. .*If rows are spots, .*spot_col="),
        ("spot,label\na,x\na,x\nb,y\n", r"spots occur more than once: 'a'\. .*add a column with the sample"),
        ("sample,spot,label\na,s,x\nb,s,y\na,s,z\n", r"spots occur more than once: 'a/s'"),
        ("sample,label\na,x\n,y\n", r"rows have no sample: 2, counted from the first row below the header"),
        ("sample,spot,label\na,,x\na,NA,y\n", r"rows have no spot: 1, 2"),
        (
            "sample,label\na,x,1\nb,y\n",
            r"header names 2 columns, but the number of fields differs in lines: 2",
        ),
        ("sample,label\na,x\nb\n", r"differs in lines: 3\..*cut off"),
        ("sample,label,label\na,x,y\n", r"columns of the same name, 'label'"),
        ('sample,label\na,"x\n', r"cannot be read as a table"),
    ],
)
def test_tables_that_are_none(read, text, said):
    with pytest.raises(ValueError, match=said):
        read(text, "a.csv")


def test_what_pandas_writes_comes_back(tmp_path):
    frame = pd.DataFrame({"sample": ["a", "b"], "label": ["x", np.nan], "age": [61, 70]})
    frame.to_csv(tmp_path / "a.csv.gz", index=False)
    pd.testing.assert_frame_equal(sp.io.read_annotations(str(tmp_path / "a.csv.gz")), frame, check_dtype=False)
