"""Squares on spots: where they lie, how large they are, and every way in which that cannot be known."""

from __future__ import annotations

import logging
import re

import numpy as np
import pandas as pd
import pytest
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
from spatialdata.transformations import Identity, remove_transformation, set_transformation

import spade as sp
from spade.core.spots.lattice import visium_mpp
from spade.io._scale import record_scale

SMALL = {"size_um": 32, "size_px": 32}


def centres(sdata, key="patches"):
    bounds = sdata.shapes[key].geometry.bounds.to_numpy()
    return (bounds[:, :2] + bounds[:, 2:]) / 2


def record(sdata, key="patches"):
    return sdata["table"].uns["spade"][key]


def hexagonal(n: int = 36, pitch: float = 60.0) -> np.ndarray:
    row, column = np.divmod(np.arange(n), 6)
    return 40 + pitch * np.column_stack([column + (row % 2) / 2, row * np.sqrt(3) / 2])


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
    assert facts["regions"]["spots"] == {
        "element": "patches",
        "image": "image",
        "coordinate_system": "global",
        "mpp": mpp,
        "spot_diameter_um": pytest.approx(16 * mpp),
    }


def affine(scale=1.0, turn=0.0, shift=(0.0, 0.0), flip=False):
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    matrix = np.eye(3)
    matrix[:2, :2] = scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([1, -1 if flip else 1])
    matrix[:2, 2] = shift
    return matrix


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


# --- which image


def test_the_finest_of_several_images_of_one_section_is_used_and_logged(caplog):
    sdata = tiny(
        images={"coarse": picture(pixels()[:, ::4, ::4]), "fine": picture(), "dapi": picture(pixels(1, (1, 99, 99)))}
    )
    place_by(sdata["coarse"], affine(scale=4))
    with caplog.at_level(logging.INFO, logger="spade"):
        sp.pp.patches(sdata, mpp=1, **SMALL)
    assert record(sdata)["regions"]["spots"]["image"] == "fine"
    assert "'coarse', 'fine' show the same section; the finest, images['fine'], is used" in caplog.text


def test_images_of_different_areas_are_ambiguous_until_one_is_named():
    sdata = tiny(images={"left": picture(), "right": picture(pixels(1))})
    place_by(sdata["right"], affine(shift=(SIDE, 0)))
    with pytest.raises(
        ValueError, match=r"several images may show 'spots', 'left', 'right', and they cover different areas.*image_k"
    ):
        sp.pp.patches(sdata, mpp=1)
    sp.pp.patches(sdata, mpp=1, image_key="left", **SMALL)
    assert record(sdata)["regions"]["spots"]["image"] == "left"


def test_images_in_different_systems_are_ambiguous():
    sdata = tiny(images={"one": picture(), "two": picture()})
    for key, system in (("one", "a"), ("two", "b")):
        set_transformation(sdata[key], Identity(), system)
        set_transformation(sdata["spots"], Identity(), system)
        remove_transformation(sdata[key], "global")
    with pytest.raises(
        ValueError, match=r"'spots' shares coordinate systems with several images, 'one', 'two'.*image_key="
    ):
        sp.pp.patches(sdata, mpp=1)


def two_sections(systems=("global", "global")):
    """Two regions in one table, each with its image."""
    ids = [f"s{i:02d}" for i in range(36)]
    sdata = SpatialData(
        images={"he_1": picture(), "he_2": picture(pixels(2))},
        shapes={"one": circles(square_lattice(36)), "two": circles(square_lattice(36) + 10)},
        tables={"table": table(ids * 2, region=["one"] * 36 + ["two"] * 36)},
    )
    sdata["table"].obs_names_make_unique()
    record_scale(sdata, sample="block", mpp={"he_1": 1.0, "he_2": 0.5})
    for system, *elements in zip(systems, ("he_1", "he_2"), ("one", "two"), strict=True):
        for key in elements:
            set_transformation(sdata[key], {system: Identity()}, set_all=True)
    return sdata


def test_sections_that_share_a_system_need_named_images():
    sdata = two_sections()
    with pytest.raises(
        ValueError, match=r"block/one: several images may show 'one', 'he_1', 'he_2'.*'global' also holds 'two'"
    ):
        sp.pp.patches(sdata)
    sp.pp.patches(sdata, image_key={"one": "he_1", "two": "he_2"}, **SMALL)
    regions = record(sdata)["regions"]
    assert {region: (facts["image"], facts["element"], facts["mpp"]) for region, facts in regions.items()} == {
        "one": ("he_1", "patches_one", 1.0),
        "two": ("he_2", "patches_two", 0.5),
    }
    np.testing.assert_allclose(centres(sdata, "patches_two"), square_lattice(36) + 10)
    assert sdata["table"].obs["spade_valid"].all()


def test_sections_in_systems_of_their_own_find_their_images():
    sdata = two_sections(("a", "b"))
    sp.pp.patches(sdata, mpp={"one": 0.8}, **SMALL)
    regions = record(sdata)["regions"]
    assert [(regions[r]["image"], regions[r]["coordinate_system"], regions[r]["mpp"]) for r in ("one", "two")] == [
        ("he_1", "a", 0.8),
        ("he_2", "b", 0.5),
    ]


def test_shapes_key_restricts_to_one_region():
    sdata = two_sections(("a", "b"))
    sp.pp.patches(sdata, shapes_key="two", **SMALL)
    assert set(sdata.shapes) == {"one", "two", "patches_two"}
    assert list(sdata["table"].obs["spade_valid"]) == [False] * 36 + [True] * 36
    sp.pp.patches(sdata, shapes_key="one", **SMALL)
    assert sdata["table"].obs["spade_valid"].all()
    assert set(record(sdata)["regions"]) == {"one", "two"}
    with pytest.raises(KeyError, match=r"shapes_key='three' is not annotated; the table's regions: \['one', 'two'\]"):
        sp.pp.patches(sdata, shapes_key="three")


@pytest.mark.parametrize(
    ("images", "image_key", "error", "said"),
    [
        ({"he": picture()}, "HE", KeyError, r"image_key='HE' is not there; images: 'he'"),
        (
            {"if": picture(pixels(0, (5, 9, 9)))},
            None,
            ValueError,
            r"no 8-bit RGB image; images: 'if': 5 channels of uint8",
        ),
        ({"he": picture(pixels(dtype=np.uint16))}, None, ValueError, r"'he': 3 channels of uint16. Add the H&E image"),
        (
            {"he": picture(), "if": picture(pixels(0, (2, 9, 9)))},
            "if",
            ValueError,
            r"images\['if'\] is not an 8-bit RGB image \('if': 2 channels of uint8\). RGB images: 'he'",
        ),
        (
            {"cells": picture(pixels(0, (4, 9, 9)), c_coords=["dapi", "cd3", "cd8", "pd1"])},
            None,
            ValueError,
            r"'cells': 4 channels of uint8",
        ),
    ],
)
def test_only_rgb_images_will_do(images, image_key, error, said):
    with pytest.raises(error, match=said):
        sp.pp.patches(tiny(images=images), image_key=image_key)


def test_no_image_at_all():
    sdata = tiny()
    del sdata.images["image"]
    with pytest.raises(ValueError, match=r"there is no 8-bit RGB image; images: none. Add the H&E image"):
        sp.pp.patches(sdata)


# --- how large


def test_unknown_microns_per_pixel_ask_for_mpp():
    sdata = tiny(mpp=None)
    said = r"tiny: the microns per pixel of images\['image'\] are not known.*diameter 16 px, pitch 50 px.*Pass mpp="
    with pytest.raises(ValueError, match=said):
        sp.pp.patches(sdata)
    sp.pp.patches(sdata, mpp=2, **SMALL)
    assert record(sdata)["regions"]["spots"]["mpp"] == 2.0


@pytest.mark.parametrize("mpp", [0, -0.5, np.nan, np.inf])
def test_microns_per_pixel_are_positive(mpp):
    with pytest.raises(ValueError, match=rf"mpp={re.escape(repr(mpp))}: expected a positive number of microns"):
        sp.pp.patches(tiny(), mpp=mpp)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("size_um", 0, "size_um=0: expected a positive number"),
        ("size_um", np.nan, "size_um=nan: expected a positive number"),
        ("size_px", 0, "size_px=0: expected a whole number of at least 1"),
        ("size_px", 224.5, "size_px=224.5: expected a whole number"),
        ("key_added", "my patches", "key_added='my patches' cannot be stored.*Try 'my_patches'"),
        ("key_added", "__x", "cannot be stored.*Try 'x'"),
        ("key_added", "spots", r"key_added='spots': the patches would replace the spots shapes\['spots'\]"),
    ],
)
def test_settings_are_checked_and_nothing_is_written(name, value, said):
    sdata = tiny()
    with pytest.raises(ValueError, match=said):
        sp.pp.patches(sdata, **{name: value})
    assert set(sdata.shapes) == {"spots"}
    assert (sdata["spots"].geom_type == "Point").all()


def test_a_stated_pitch_in_conflict_is_an_error():
    sdata = tiny()
    record_scale(sdata, sample="tiny", pitch_um={"spots": 100.0})
    said = r"tiny: at 1 µm/px neighbouring spots are 50\.0 µm apart, but the platform states 100 µm. Check mpp=.*2 would fit"
    with pytest.raises(ValueError, match=said):
        sp.pp.patches(sdata)
    sp.pp.patches(sdata, mpp=2.05, size_um=64, size_px=32)  # within 5 %


@pytest.mark.parametrize("ratio", [0.55, 0.65])
def test_visium_is_recognised_and_a_conflicting_mpp_refused(ratio):
    sdata = tiny(mpp=None, spots=circles(hexagonal(), radius=30 * ratio))
    sp.pp.patches(sdata, **SMALL)
    assert record(sdata)["regions"]["spots"]["mpp"] == pytest.approx(100 / 60)
    with pytest.raises(
        ValueError, match=r"recognised as Visium\): at 1 µm/px neighbouring spots are 60\.0 µm .* 100 µm.*1\.667 would"
    ):
        sp.pp.patches(sdata, mpp=1.0)


@pytest.mark.parametrize("radius", [16.5, 19.5])
@pytest.mark.parametrize("kind", ["square lattice", "scattered", "line", "two spots"])
def test_what_is_no_visium_is_not_taken_for_it(kind, radius):
    spots = {
        "square lattice": square_lattice(36, 60),
        "scattered": np.random.default_rng(0).uniform(0, 600, (300, 2)),
        "line": np.column_stack([60 * np.arange(9), np.zeros(9)]),
        "two spots": np.array([[0.0, 0], [60, 0]]),
    }[kind]
    for scale in np.linspace(0.3, 1.5, 25):  # scattered points have no pitch of 60, but some scale hits the ratio
        assert visium_mpp(spots, np.full(len(spots), radius * scale)) is None


def test_sparse_visium_spots_are_recognised_by_their_array_positions():
    row, column = np.divmod(np.arange(200), 10)
    array = np.column_stack([row, 2 * column + row % 2])
    every = 30 + np.column_stack([array[:, 1] * 5, array[:, 0] * 5 * np.sqrt(3)])
    few = np.sort(np.random.default_rng(0).choice(200, 12, replace=False))
    assert visium_mpp(every[few], np.full(12, 3.25)) is None
    assert visium_mpp(every[few], np.full(12, 3.25), array[few]) == pytest.approx(10)
    assert visium_mpp(every[few], np.full(12, 4.5), array[few]) is None  # the diameter does not fit
    assert visium_mpp(every[few], np.full(12, 3.25), array[few][:, ::-1]) is None  # nor do rows and columns exchanged
    sdata = tiny(12, mpp=None, spots=circles(every[few], 3.25))
    sdata["table"].obs[["array_row", "array_col"]] = array[few]
    with warns_here("coarser than twice the wanted"):
        sp.pp.patches(sdata, size_um=112, size_px=112)
    assert record(sdata)["regions"]["spots"]["mpp"] == pytest.approx(10)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "options", "mpp"),
    [
        ("scanpy_v1", {}, 4.823),
        ("visiumio/10xVisium/section1/outs", {"counts_file": "raw_feature_bc_matrix.h5"}, 14.17),
    ],
)
def test_real_visium_is_recognised(data_dir, folder, options, mpp):
    visium = pytest.importorskip("spatialdata_io").visium
    with pytest.warns(UserWarning):  # gene names, formats: the reader's own
        sdata = visium(data_dir / "visium" / folder, dataset_id="v", **options)
    with warns_here(r"coarser than twice the wanted 0\.5 µm/px: patches are enlarged"):
        sp.pp.patches(sdata)
    facts = record(sdata)["regions"]["v"]
    assert facts["mpp"] == pytest.approx(mpp, rel=1e-3)
    assert facts["image"] == ("v_hires_image" if folder == "scanpy_v1" else "v_lowres_image")
    assert facts["spot_diameter_um"] == pytest.approx(65, rel=0.01)
    assert sdata["table"].obs["spade_valid"].all()


@pytest.mark.parametrize(("mpp", "warned"), [(2.0, False), (2.1, True)])
def test_an_image_coarser_than_twice_the_wanted_warns(mpp, warned):
    with warns_here(r"2\.1 µm/px, coarser than twice the wanted 1 µm/px.*2\.1 times") if warned else no_warning():
        sp.pp.patches(tiny(mpp=mpp), **SMALL)


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


def test_sparse_spots_pass_the_check_of_the_pitch_and_wrong_scales_do_not():
    """A selection of spots has few neighbours left; those that are there stand at the pitch."""
    rng = np.random.default_rng(0)
    (full,) = sp.datasets.toy(1, 400)
    for share in (0.1, 0.2, 0.5):
        sample = SpatialData(images=dict(full.images), shapes=dict(full.shapes), attrs=dict(full.attrs))
        rows = np.sort(rng.choice(400, int(400 * share), replace=False))
        adata = full["table"][rows].copy()
        sample.shapes["spots"] = full["spots"].loc[adata.obs["spot_id"]]
        sample.tables["table"] = adata
        sp.pp.patches(sample)
        with pytest.raises(ValueError, match=r"neighbouring spots are .* µm apart, but the platform states 100 µm"):
            sp.pp.patches(sample, mpp=0.6)


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
