"""Squares on spots: where they lie, and rows that cannot be joined to them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.patches import SMALL, affine, centres, record
from helpers.sections import (
    SIDE,
    circles,
    no_warning,
    picture,
    pixels,
    place_by,
    square_lattice,
    table,
    tiny,
    warns_here,
)
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Labels2DModel
from spatialdata.transformations import Identity, Translation, remove_transformation, set_transformation

import spade as sp
from spade.io._recorded.frames import frame_of

# --- where


@pytest.mark.parametrize(("mpp", "size_um"), [(1.0, 32.0), (0.5, 32.0), (0.4, 20.0)])
def test_squares_are_centred_on_the_spots_and_as_wide_as_asked(mpp, size_um):
    sdata = tiny(mpp=mpp)
    sp.pp.patches(sdata, size_um=size_um, size_px=40)
    squares = sdata["patches"]
    assert list(squares.index) == list(sdata["spots"].index)
    np.testing.assert_allclose(centres(sdata), square_lattice(36))
    bounds = squares.geometry.bounds.to_numpy()
    np.testing.assert_allclose(bounds[:, 2:] - bounds[:, :2], size_um / mpp)
    np.testing.assert_allclose(squares.geometry.area, (size_um / mpp) ** 2)
    assert sdata["table"].obs["spade_valid"].all()
    facts = record(sdata)
    assert (facts["size_um"], facts["size_px"]) == (size_um, 40)
    assert facts["regions"]["spots"] | {"places": ""} == {
        "places": "",
        "element": "patches",
        "image": "image",
        "coordinate_system": "global",
        "mpp": mpp,
        "spot_diameter_um": pytest.approx(16 * mpp),
        "frame": frame_of(sdata["image"]),
    }


@pytest.mark.parametrize(
    ("spots_to_world", "image_to_world"),
    [
        (affine(scale=2), affine()),
        (affine(), affine(scale=0.5)),
        (affine(shift=(30, -7)), affine(shift=(-5, 11))),
        (affine(turn=30), affine()),
        (affine(), affine(turn=-75, scale=3, shift=(100, 0))),
        (affine(turn=90, scale=0.1), affine(flip=True, scale=2, shift=(0, SIDE))),
    ],
)
def test_any_similarity_between_spots_and_image_gives_the_right_pixels(spots_to_world, image_to_world):
    true = square_lattice(36)
    to_spots = np.linalg.inv(spots_to_world) @ image_to_world
    intrinsic = (np.column_stack([true, np.ones(36)]) @ to_spots.T)[:, :2]
    shrunk = np.sqrt(abs(np.linalg.det(to_spots)))
    sdata = tiny(spots=circles(intrinsic, radius=8.0 * shrunk))
    place_by(sdata["spots"], spots_to_world)
    place_by(sdata["image"], image_to_world)
    sp.pp.patches(sdata, **SMALL)
    np.testing.assert_allclose(centres(sdata), true, atol=1e-8)
    assert record(sdata)["regions"]["spots"]["spot_diameter_um"] == pytest.approx(16)
    # the squares carry the image's transformations: in the shared frame they lie on the spots
    world = np.column_stack([centres(sdata), np.ones(36)]) @ image_to_world.T
    np.testing.assert_allclose(world, np.column_stack([intrinsic, np.ones(36)]) @ spots_to_world.T, atol=1e-6)


def test_a_stretched_transformation_is_refused():
    sdata = tiny()
    place_by(sdata["spots"], np.diag([1.0, 1.2, 1.0]))
    with pytest.raises(
        ValueError, match=r"tiny: .*shapes\['spots'\] to images\['image'\] stretches one axis 1\.20 times.*'global'"
    ):
        sp.pp.patches(sdata)


def test_features_of_spots_that_moved_are_outdated(tmp_path):
    sdata = tiny()
    sp.pp.patches(sdata, **SMALL)
    sp.pp.encode_patches(sdata)
    set_transformation(sdata["spots"], Translation([20, 0], axes=("x", "y")), "global")
    sp.pp.patches(sdata, **SMALL)
    with pytest.raises(ValueError, match=r"'X_texture' was made from 'patches', which sp.pp.patches has written anew"):
        sp.pp.spatial_context(sdata, use_rep="X_texture")
    sp.pp.encode_patches(sdata)
    sp.io.write(sdata, tmp_path / "a.zarr")
    sp.pp.patches(tmp_path / "a.zarr", **SMALL)  # at the same places
    kept = read_zarr(tmp_path / "a.zarr")
    kept.tables["table"] = kept["table"][:30].copy()
    sp.pp.patches(kept, **SMALL)
    sp.pp.spatial_context(kept, use_rep="X_texture")


def test_a_coordinate_system_must_be_shared():
    sdata = tiny()
    set_transformation(sdata["image"], Identity(), "slide")
    remove_transformation(sdata["image"], "global")
    with pytest.raises(
        ValueError, match=r"no coordinate system in common.*\['global'\].*'image': \['slide'\].*set_transformation"
    ):
        sp.pp.patches(sdata)
    set_transformation(sdata["spots"], Identity(), "slide")
    sp.pp.patches(sdata, **SMALL)
    assert record(sdata)["regions"]["spots"]["coordinate_system"] == "slide"


def test_rows_are_joined_by_id_and_keep_their_order():
    straight, shuffled = tiny(), tiny()
    order = np.random.default_rng(3).permutation(36)
    shuffled.tables["table"] = straight["table"][order].copy()
    away = shuffled["spots"].geometry.translate(xoff=1000)
    shuffled["spots"].loc[["s03", "s20"], "geometry"] = away.loc[["s03", "s20"]]
    with warns_here("2 of 36 patches are off the image"):
        sp.pp.patches(shuffled, **SMALL)
    obs = shuffled["table"].obs
    assert list(obs["spot_id"]) == [f"s{i:02d}" for i in order]
    assert list(obs.index[~obs["spade_valid"]]) == [f"s{i:02d}" for i in order if i in (3, 20)]
    assert list(shuffled["patches"].index) == list(straight["spots"].index)


@pytest.mark.parametrize("ids", [list(range(100, 136)), [f"AAAC-{i}" for i in range(36)]])
def test_instance_ids_may_be_numbers_or_text(ids):
    sdata = tiny(spots=circles(square_lattice(36), ids=ids))
    sp.pp.patches(sdata, **SMALL)
    assert list(sdata["patches"].index) == ids


def test_spots_without_rows_are_no_trouble():
    sdata = tiny()
    sdata.tables["table"] = sdata["table"][5:9].copy()
    sp.pp.patches(sdata, **SMALL)
    assert len(sdata["patches"]) == 36
    assert sdata["table"].obs["spade_valid"].shape == (4,)


def relabel(sdata, ids):
    sdata["table"].obs = sdata["table"].obs.assign(spot_id=ids)


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (
            lambda s: relabel(s, [f"x{i}" for i in range(36)]),
            KeyError,
            r"36 of 36 rows of the table have no spot in shapes\['spots'\], such as 'x0'.*spots there are: 's00'",
        ),
        (
            lambda s: relabel(s, range(36)),
            KeyError,
            r"36 of 36 rows.*such as 0, 1.*joined by instance id; spots there are: 's00'",
        ),
        (
            lambda s: s["spots"].set_index(
                pd.Index(["s00", "s00", *(f"s{i:02d}" for i in range(2, 36))]), inplace=True
            ),
            ValueError,
            r"shapes\['spots'\] has 1 instance ids more than once, such as 's00'. Make the index unique",
        ),
        (lambda s: s.shapes.pop("spots"), KeyError, r"annotates 'spots', which is not among the shapes: none"),
    ],
)
def test_rows_that_cannot_be_joined_are_refused(spoil, error, said):
    sdata = tiny()
    spoil(sdata)
    with pytest.raises(error, match=said):
        sp.pp.patches(sdata, **SMALL)
    assert "patches" not in sdata.shapes


# --- off the image


def test_some_off_the_image_are_marked_and_counted():
    spots = square_lattice(36)
    spots[:5, 0] = [0, -0.1, SIDE - 0.1, SIDE, 2 * SIDE]
    sdata = tiny(spots=circles(spots))
    with warns_here(
        r"tiny: the centres of 3 of 36 patches are off the image.*obs\['spade_valid'\]=False.*left out of tr"
    ):
        sp.pp.patches(sdata, **SMALL)
    assert list(sdata["table"].obs["spade_valid"][:6]) == [True, False, True, False, False, True]
    assert len(sdata["patches"]) == 36


def test_all_off_the_image_is_an_error_and_changes_nothing():
    sdata = tiny()
    sp.pp.patches(sdata, **SMALL)
    before, facts = centres(sdata), record(sdata)
    place_by(sdata["spots"], affine(shift=(SIDE, 0)))
    with pytest.raises(
        ValueError, match=r"all 36 patches are off the image. Check the transformations.*order of x and y"
    ):
        sp.pp.patches(sdata, **SMALL)
    np.testing.assert_array_equal(centres(sdata), before)
    assert record(sdata) == facts
    assert sdata["table"].obs["spade_valid"].all()


# --- running it


def test_running_twice_replaces_without_a_word_and_two_keys_stand_side_by_side():
    sdata = tiny()
    sp.pp.patches(sdata, size_um=20, size_px=32)
    with no_warning():
        sp.pp.patches(sdata, **SMALL)
        sp.pp.patches(sdata, size_um=64, size_px=32, key_added="context")
    assert [np.sqrt(sdata[key].area.iloc[0]) for key in ("patches", "context")] == pytest.approx([32, 64])
    assert record(sdata, "context")["size_um"] == 64.0


def test_an_object_without_table_gets_one_of_width_0():
    sdata = SpatialData(images={"image": picture()}, shapes={"spots": circles(square_lattice(36))})
    sp.pp.patches(sdata, mpp=1, **SMALL)
    assert sdata["table"].shape == (36, 0)
    assert list(sdata["table"].obs["spot_id"]) == list(sdata["spots"].index)
    assert sdata["table"].obs["spade_valid"].all()


def test_without_table_the_spots_must_be_clear():
    shapes = {"spots": circles(square_lattice(36)), "tissue": circles(square_lattice(4))}
    sdata = SpatialData(images={"image": picture()}, shapes=shapes)
    for wrong in (None, "spot"):
        with pytest.raises(
            ValueError, match=rf"shapes_key={wrong!r}: the object has no table.*shapes: 'spots', 'tissue'"
        ):
            sp.pp.patches(sdata, mpp=1, shapes_key=wrong)
    assert not sdata.tables
    sp.pp.patches(sdata, mpp=1, shapes_key="spots", **SMALL)
    assert sdata["table"].n_obs == 36


def test_a_store_without_table_gets_table_and_patches(tmp_path):
    sdata = SpatialData(images={"image": picture()}, shapes={"spots": circles(square_lattice(36))})
    path = tmp_path / "bare.zarr"
    sp.io.write(sdata, path)
    sp.pp.patches(path, mpp=1, **SMALL)
    again = read_zarr(path)
    assert again["table"].shape == (36, 0)
    np.testing.assert_array_equal(again["image"].to_numpy(), pixels())
    np.testing.assert_allclose(centres(again), square_lattice(36))


def test_regions_that_no_table_has_are_named():
    sample = tiny()
    for argument, value in (("mpp", {"spotz": 1.0}), ("image_key", {"spots": "image", "spotz": "image"})):
        with pytest.raises(
            KeyError, match=rf"{argument}= names 'spotz', which no table has as a region; regions: 'spots'"
        ):
            sp.pp.patches(sample, **{argument: value})
    other = tiny(name="other", spots=circles(square_lattice(36)))
    sp.pp.patches([sample, other], mpp={"spots": 1.0})


def test_cells_as_labels_are_told_what_to_do():
    labels = Labels2DModel.parse(np.zeros((40, 40), dtype=np.int64), dims=("y", "x"))
    sample = SpatialData(
        images={"image": picture()}, labels={"cells": labels}, tables={"table": table(list(range(4)), region="cells")}
    )
    with pytest.raises(
        KeyError, match=r"annotates 'cells', which is not among the shapes.*among the labels.*to_circles.*cells_as_circ"
    ):
        sp.pp.patches(sample, mpp=1.0)
