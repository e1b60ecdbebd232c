"""Outlines that are empty, collapsed, nested or tangled, for QuPath's files and HEST's."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import shapely

import spade as sp
from spade.io._hest import _read_polygons
from spade.io._polygons import MAX_CROSSINGS, n_crossings

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]


def feature(geometry, **properties):
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


BAD = {
    "null": (feature(None), "empty geometry"),
    "no ring": (feature(polygon()), "empty|enclose no area"),
    "empty ring": (feature(polygon([])), "empty|enclose no area"),
    "point": (feature(polygon([[1, 1]] * 4)), "empty|enclose no area"),
    "line": (feature(polygon([[0, 0], [5, 5], [9, 9], [0, 0]])), "empty|enclose no area"),
    "text": (feature({"type": "Polygon", "coordinates": "here"}), "no list of coordinates"),
    "list": (feature([1, 2]), "geometry of type None"),
    "names": (feature({"type": ["Polygon"], "coordinates": [SQUARE]}), "geometry of type"),
    "infinite": (feature(polygon([*SQUARE[:2], [1e999, 5], [0, 0]])), "NaN or infinite"),
    "surrogate": (feature(polygon(SQUARE), classification={"name": "\ud800"}), "surrogates not allowed"),
}


@pytest.mark.parametrize("bad", list(BAD))
@pytest.mark.parametrize("reader", ["QuPath", "HEST"])
def test_one_error_names_the_file_and_what_is_wrong(tmp_path, bad, reader):
    content, said = BAD[bad]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps([feature(polygon(SQUARE)), content]))
    with pytest.raises(ValueError, match=said) as caught:
        sp.io.read_annotations(path) if reader == "QuPath" else _read_polygons(path, "S")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '[{"type": "Feature", "geometry": ' * 5000])
@pytest.mark.parametrize("reader", ["QuPath", "HEST"])
def test_json_of_any_depth(tmp_path, text, reader):
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.geojson' cannot be read as JSON"):
        sp.io.read_annotations(path) if reader == "QuPath" else _read_polygons(path, "S")


def test_pairs_of_surrogates_are_characters(tmp_path):
    (tmp_path / "a.geojson").write_text(json.dumps(feature(polygon(SQUARE), name="\U0001f52c")))
    assert sp.io.read_annotations(tmp_path / "a.geojson")["name"].tolist() == ["\U0001f52c"]


def test_hest_keeps_outlines_as_they_are(tmp_path):
    bow_tie = [[0, 0], [10, 10], [10, 0], [0, 8], [0, 0]]
    several = {"type": "MultiPolygon", "coordinates": [[SQUARE], [[[x + 5, y] for x, y in SQUARE]], [bow_tie]]}
    given = [feature(several, classification={"name": "cell"}), feature({"type": "Point", "coordinates": [1, 2]})]
    (tmp_path / "a.geojson").write_text(json.dumps(given))
    frame = _read_polygons(tmp_path / "a.geojson", "S")
    assert frame["class"].tolist() == ["cell"] * 3
    assert [shapely.get_coordinates(part).tolist() for part in frame.geometry][2] == bow_tie


@pytest.mark.parametrize("n", [200, 3000, 30_000])
def test_tangled_outlines_are_refused_at_once(tmp_path, n):
    points = np.random.default_rng(0).random((n, 2)).round(4) * 1000
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(feature(polygon(points.tolist()))))
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"a\.geojson': feature 0 crosses itself about [\d,]+ times"):
        sp.io.read_annotations(path)
    assert time.perf_counter() - start < 10


def test_crossings_are_counted():
    x, y = np.arange(40), np.array([0, 9] * 20)
    zigzag = np.column_stack([x, y])
    comb = shapely.Polygon([*zigzag, [40, 4.5], [-1, 4.5]])  # its last side crosses every tooth
    assert n_crossings(comb) == 39
    assert n_crossings(shapely.Polygon(SQUARE)) == 0
    assert n_crossings(shapely.Polygon([[0, 0], [10, 10], [10, 0], [0, 10]])) == 1
    assert n_crossings(shapely.Polygon([[0, 0]] * 5)) == 0
    back_and_forth = shapely.Polygon([[i % 2, 0] for i in range(3000)])
    assert n_crossings(back_and_forth) > MAX_CROSSINGS


def test_a_wavy_outline_that_crosses_itself_a_few_times_is_repaired(tmp_path):
    t = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    r = 100 + 5 * np.sin(40 * t)
    points = np.column_stack([r * np.cos(t), r * np.sin(t)])
    points[1000:1003] = points[1000:1003][::-1]
    (tmp_path / "a.geojson").write_text(json.dumps(feature(polygon(points.tolist()))))
    with pytest.warns(UserWarning, match="repaired 1 of 1 polygon"):
        frame = sp.io.read_annotations(tmp_path / "a.geojson")
    assert frame.area[0] == pytest.approx(np.pi * (100**2 + 12.5), rel=1e-3)
