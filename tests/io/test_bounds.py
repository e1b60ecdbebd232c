"""Slides with bounds: QuPath counts pixels from the corner of the bounds, this package from that of the slide."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from anndata import AnnData
from geopandas import GeoDataFrame
from helpers.scans.neighbours import lazyslide, spec_of
from helpers.scans.wsi import HEIGHT, LEFT, MPP, SLIDE_HEIGHT, SLIDE_WIDTH, TOP, WIDTH, leica_slide, plain_slide
from shapely import box
from spatialdata import bounding_box_query, read_zarr

import spade as sp

SIDE = 200
#: Columns of tiles by the upper left corner of the bounds, (1000, 2000), in pixels of the slide.
FIRST = box(1000, 2000, 1200, 2200)


def tiled(path):
    """A slide with tiles of 200 px, edge to edge from its corner on, named by their place."""
    sdata = sp.io.read_wsi(path)
    sp.pp.tiles(sdata, size_um=SIDE * MPP, tissue_key=None)
    table = sdata["tiles_table"]
    table.obs["place"] = [f"{x:.0f}_{y:.0f}" for x, y in table.obsm["spatial"]]
    return sdata


@pytest.fixture(scope="module")
def leica(tmp_path_factory):
    return leica_slide(tmp_path_factory.mktemp("scn") / "a.scn")


@pytest.fixture
def slide(leica):
    return tiled(leica)


def corners(path):
    """Lower and upper corner of every object of a file, by its class."""
    objects = json.loads(path.read_text())["features"]
    rings = {one["properties"]["classification"]["name"]: one["geometry"]["coordinates"][0] for one in objects}
    return {
        name: [*map(min, zip(*ring, strict=True)), *map(max, zip(*ring, strict=True))] for name, ring in rings.items()
    }


def test_a_tile_in_the_corner_of_the_bounds_is_in_the_corner_of_qupath(slide, tmp_path):
    assert slide["tiles"].geometry.iloc[5 + 10 * (SLIDE_WIDTH // SIDE)].equals(FIRST)
    sp.io.write_annotations(slide, tmp_path / "a.geojson", color="place")
    written = corners(tmp_path / "a.geojson")
    assert written["1100_2100"] == [0, 0, 200, 200]
    assert written["1500_2700"] == [400, 600, 600, 800]
    assert written["100_100"] == [-1000, -2000, -800, -1800]  # off the part that QuPath shows
    sp.io.write_annotations(slide, tmp_path / "b.geojson", color="place", in_bounds=True)
    assert (tmp_path / "b.geojson").read_bytes() == (tmp_path / "a.geojson").read_bytes()


def test_the_whole_slide_is_asked_for(slide, tmp_path):
    sp.io.write_annotations(slide, tmp_path / "a.geojson", color="place", in_bounds=False)
    assert corners(tmp_path / "a.geojson")["1100_2100"] == [1000, 2000, 1200, 2200]
    assert (
        sp.io.read_annotations(tmp_path / "a.geojson").geometry.to_numpy() == slide["tiles"].geometry.to_numpy()
    ).all()


def test_merged_outlines_are_moved_as_one(slide, tmp_path):
    table = slide["tiles_table"]
    table.obs["kind"] = np.where(
        shapely.within(shapely.points(table.obsm["spatial"]), box(1000, 2000, 1400, 2600)), "a", "b"
    )
    sp.io.write_annotations(slide, tmp_path / "a.geojson", color="kind", dissolve=True)
    first = sp.io.read_annotations(tmp_path / "a.geojson").set_index("label").geometry["a"]
    assert first.equals(box(0, 0, 400, 600))


def drawn(path, *areas):
    """A file as QuPath writes it."""
    features = [
        {
            "type": "Feature",
            "properties": {"objectType": "annotation", "classification": {"name": label}},
            "geometry": json.loads(shapely.to_geojson(area)),
        }
        for label, area in areas
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def labelled(sdata):
    """Places of the tiles that have a label."""
    obs = sdata["tiles_table"].obs
    return {place: label for place, label in zip(obs["place"], obs["label"], strict=True) if isinstance(label, str)}


def test_what_was_drawn_in_qupath_labels_the_tiles_below_it(slide, tmp_path):
    path = drawn(tmp_path / "a.geojson", ("t", box(0, 0, 200, 200)), ("s", box(400, 600, 600, 800)))
    sp.pp.label_patches(slide, path)
    assert labelled(slide) == {"1100_2100": "t", "1500_2700": "s"}
    sp.pp.label_patches(slide, path, in_bounds=False)
    assert labelled(slide) == {"100_100": "t", "500_700": "s"}


def test_a_round_trip_labels_every_tile_with_itself(slide, tmp_path):
    sp.io.write(slide, tmp_path / "a.zarr")
    sp.io.write_annotations(tmp_path / "a.zarr", tmp_path / "a.geojson", color="place", object_type="annotation")
    sdata = read_zarr(tmp_path / "a.zarr")
    sp.pp.label_patches(sdata, tmp_path / "a.geojson")
    obs = sdata["tiles_table"].obs
    assert obs["label"].astype(str).tolist() == obs["place"].tolist()
    np.testing.assert_allclose(obs["label_share"], 1)


def test_polygons_and_other_images_must_say_where_they_count_from(slide, tmp_path):
    path = drawn(tmp_path / "a.geojson", ("t", box(0, 0, 200, 200)))
    frame = sp.io.read_annotations(path)
    for given, options, what in (
        (frame, {}, "are polygons and no file"),
        (path, {"mpp": MPP}, r"are of another image \(mpp=0\.5\)"),
        ({"a": frame}, {}, "are polygons and no file"),
    ):
        with pytest.raises(
            ValueError, match=rf"a: annotations= {what}, but .* from pixel \(1000, 2000\) .*in_bounds=True"
        ):
            sp.pp.label_patches(slide, given, **options)
    sp.pp.label_patches(slide, frame, in_bounds=True)
    assert labelled(slide) == {"1100_2100": "t"}
    sp.pp.label_patches(slide, frame, in_bounds=False)
    assert labelled(slide) == {"100_100": "t"}
    half = GeoDataFrame({"label": ["t"]}, geometry=[box(0, 0, 100, 100)])
    sp.pp.label_patches(slide, half, mpp=2 * MPP, in_bounds=True)  # the cropped slide at half its resolution
    assert labelled(slide) == {"1100_2100": "t"}
    slide.shapes["drawn"] = slide["tiles"].iloc[:1].assign(label="t")
    sp.pp.label_patches(slide, "drawn")
    assert labelled(slide) == {"100_100": "t"}
    with pytest.raises(ValueError, match=r"in_bounds=True: the transformations of shapes\['drawn'\]"):
        sp.pp.label_patches(slide, "drawn", in_bounds=True)


def test_a_slide_without_bounds_is_as_it_was(tmp_path):
    slide = tiled(plain_slide(tmp_path / "plain.tif"))
    whole = slide["tiles"].geometry.to_numpy()
    path = drawn(tmp_path / "q.geojson", ("t", box(200, 400, 400, 600)))
    for in_bounds in (None, True, False):
        sp.io.write_annotations(slide, tmp_path / "a.geojson", color="place", in_bounds=in_bounds)
        assert (sp.io.read_annotations(tmp_path / "a.geojson").geometry.to_numpy() == whole).all()
        for given in (path, sp.io.read_annotations(path)):
            sp.pp.label_patches(slide, given, in_bounds=in_bounds)
            assert labelled(slide) == {"300_500": "t"}


def test_an_image_that_was_cropped_is_no_slide_that_qupath_crops(slide, tmp_path):
    part = bounding_box_query(
        slide,
        axes=("x", "y"),
        min_coordinate=[800, 1800],
        max_coordinate=[1800, 2800],
        target_coordinate_system="global",
    )
    sp.io.write_annotations(part, tmp_path / "a.geojson", color="place", table_key="tiles")
    assert corners(tmp_path / "a.geojson")["1100_2100"] == [200, 200, 400, 400]
    with pytest.raises(
        ValueError, match=rf"{SLIDE_WIDTH} × {SLIDE_HEIGHT} pixels, but images\['he'\] has 1000 × 1000 now"
    ):
        sp.io.write_annotations(part, tmp_path / "a.geojson", color="place", table_key="tiles", in_bounds=True)


def test_an_image_of_values_is_a_picture_of_its_own(slide, tmp_path):
    slide["tiles_table"].obs["value"] = 1.0
    sp.tl.score_image(slide, "value", um_per_px=MPP)
    sp.io.write_annotations(slide, tmp_path / "a.geojson", color="place", image_key="value")
    assert corners(tmp_path / "a.geojson")["1100_2100"] == [1000, 2000, 1200, 2200]


def test_slides_beside_an_anndata_know_their_bounds(leica, tmp_path):
    adata = AnnData(np.ones((1, 1), np.float32), obsm={"spatial": np.array([[1100.0, 2100.0]])})
    sdata = sp.io.from_anndata(adata, image=leica, mpp=MPP, spot_diameter_px=SIDE)
    assert sdata.attrs["spade"]["slides"]["spatial_full_image"]["bounds"] == [LEFT, TOP, WIDTH, HEIGHT]
    sp.pp.patches(sdata, size_um=SIDE * MPP, size_px=SIDE)
    sdata["table"].obs["place"] = ["first"]
    sp.io.write_annotations(sdata, tmp_path / "a.geojson", color="place")
    assert corners(tmp_path / "a.geojson")["first"] == [0, 0, 200, 200]


def test_slides_of_lazyslide_know_their_bounds(leica, tmp_path):
    size = (SLIDE_WIDTH, SLIDE_HEIGHT)
    wsi = lazyslide(size, [(LEFT, TOP)], side=SIDE, mpp=MPP, spec=spec_of(SIDE, mpp=MPP), tissue=[box(0, 0, *size)])
    read = sp.io.from_lazyslide(wsi, image=leica)
    wsi.attrs["slide_properties"]["bounds"] = [LEFT, TOP, WIDTH, HEIGHT]
    stated = sp.io.from_lazyslide(wsi, image=sp.io.read_wsi(leica)["he"])
    for sdata in (read, stated):
        sdata["tiles_table"].obs["place"] = "first"
        sp.io.write_annotations(sdata, tmp_path / "a.geojson", color="place")
        assert corners(tmp_path / "a.geojson") == {"first": [0, 0, 200, 200]}
    assert read.attrs["spade"]["slides"]["he"]["vendor"] == "leica"


def test_flags_are_flags(slide, tmp_path):
    with pytest.raises(ValueError, match="in_bounds='no': expected True or False"):
        sp.io.write_annotations(slide, tmp_path / "a.geojson", in_bounds="no")
    with pytest.raises(ValueError, match="in_bounds=1: expected True or False"):
        sp.pp.label_patches(slide, drawn(tmp_path / "a.geojson", ("t", box(0, 0, 9, 9))), in_bounds=1)
    (tmp_path / "a.csv").write_text("sample,stage\na,II\n")
    with pytest.raises(ValueError, match="in_bounds=True is for polygons, but annotations= is a table"):
        sp.pp.label_patches(slide, tmp_path / "a.csv", in_bounds=True)
