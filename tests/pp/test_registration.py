"""Coordinate systems that an image and its spots share, and that contradict each other after a registration."""

from __future__ import annotations

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from helpers.patches import LEFT, RIGHT, SMALL, centres, got, polygons
from helpers.sections import circles, picture, square_lattice, tiny
from spatialdata import SpatialData
from spatialdata.models import PointsModel, ShapesModel
from spatialdata.transformations import (
    Scale,
    Translation,
    align_elements_using_landmarks,
    remove_transformation,
    set_transformation,
)

import spade as sp
from spade.io._recorded.scale import record_scale

SHIFT = 60.0


def landmarks(offset=0.0):
    points = np.add([[50, 50], [300, 60], [120, 320]], [offset, 0])
    return ShapesModel.parse(points, geometry=0, radius=1)


def registered(sdata, reference, image="image"):
    """Lay an image on what it shows by three landmarks, in a coordinate system of its own, as napari-spatialdata does.

    The image keeps ``"global"``, in which it still lies elsewhere.
    """
    align_elements_using_landmarks(
        landmarks(SHIFT), landmarks(), reference, sdata[image], new_coordinate_system="aligned"
    )
    return sdata


def test_patches_after_a_registration_follow_it_once_the_old_one_is_removed():
    sdata = tiny()
    registered(sdata, sdata["spots"])
    said = r"the shapes and images\['image'\] lie 60 px apart .*'global' and 'aligned'.*remove_transformation"
    with pytest.raises(ValueError, match=said):
        sp.pp.patches(sdata, **SMALL)
    assert "patches" not in sdata.shapes
    with pytest.raises(ValueError, match=said):
        sp.pl.spatial(sdata)
    remove_transformation(sdata["image"], to_coordinate_system="global")
    with pytest.warns(UserWarning, match="off the image"):
        sp.pp.patches(sdata, **SMALL)
    np.testing.assert_allclose(centres(sdata), square_lattice(36) - [SHIFT, 0], atol=1e-6)


def test_the_coordinate_systems_of_a_reader_agree():
    sdata = tiny()
    for element in (sdata["image"], sdata["spots"]):
        set_transformation(element, Scale([0.17, 0.17], axes=("x", "y")), "downscaled_hires")
    set_transformation(sdata["spots"], Translation([0.3, 0], axes=("x", "y")), "rounded")
    set_transformation(sdata["image"], Scale([1, 1], axes=("x", "y")), "rounded")
    sp.pp.patches(sdata, **SMALL)
    np.testing.assert_allclose(centres(sdata), square_lattice(36))


def test_bins_of_molecules_after_a_registration():
    frame = pd.DataFrame({"x": [105.0, 205.0], "y": [105.0, 205.0], "gene": pd.Categorical(["A", "B"])})
    points = PointsModel.parse(
        dd.from_pandas(frame, npartitions=1), feature_key="gene", coordinates={"x": "x", "y": "y"}
    )
    sdata = registered(SpatialData(images={"image": picture()}, points={"molecules": points}), points)
    record_scale(sdata, mpp={"image": 1.0})
    with pytest.raises(ValueError, match=r"60 px apart .*'global' and 'aligned'"):
        sp.pp.bin_expression(sdata, size_um=20, from_="points")
    remove_transformation(sdata["image"], to_coordinate_system="global")
    sp.pp.bin_expression(sdata, size_um=20, from_="points")
    np.testing.assert_allclose(centres(sdata, "bins"), [[50, 110], [150, 210]])


def test_outlines_of_a_neighbouring_section_after_a_registration():
    sdata = tiny()
    sp.pp.patches(sdata, **SMALL)
    sdata["drawn"] = ShapesModel.parse(polygons(("l", LEFT), ("r", RIGHT)))
    align_elements_using_landmarks(
        landmarks(SHIFT), landmarks(), sdata["image"], sdata["drawn"], new_coordinate_system="aligned"
    )
    with pytest.raises(ValueError, match=r"60 px apart .*'global' and 'aligned'"):
        sp.pp.label_patches(sdata, "drawn")
    remove_transformation(sdata["drawn"], to_coordinate_system="global")
    sp.pp.label_patches(sdata, "drawn")
    assert got(sdata)[:6] == [None, "l", "l", "l", "l", "r"]  # the border lies at 260, not at 200


def test_outlines_for_other_programs_after_a_registration(tmp_path):
    sdata = tiny()
    sdata["drawn"] = ShapesModel.parse(polygons(("l", LEFT)))
    registered(sdata, sdata["drawn"])
    with pytest.raises(ValueError, match=r"shapes\['drawn'\] and images\['image'\] lie 60 px apart"):
        sp.io.write_annotations(sdata, tmp_path / "a.geojson", shapes_key="drawn", image_key="image")
    assert not (tmp_path / "a.geojson").exists()


def test_spots_shown_by_one_image_in_two_systems_of_other_scale():
    sdata = tiny(spots=circles(square_lattice(36)))
    for element, scale in ((sdata["image"], 1.0), (sdata["spots"], 1.1)):
        set_transformation(element, Scale([scale, scale], axes=("x", "y")), "scanner")
    with pytest.raises(ValueError, match=r"px apart by way of .*'global' and 'scanner'"):
        sp.pp.patches(sdata, **SMALL)
