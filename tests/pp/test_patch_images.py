"""Which image patches are cut from, where there are several."""

from __future__ import annotations

import logging
from functools import partial

import numpy as np
import pytest
from helpers.patches import SMALL, affine, centres, record
from helpers.sections import SIDE, circles, picture, pixels, place_by, square_lattice, table, tiny
from spatialdata import SpatialData
from spatialdata.transformations import Identity, remove_transformation, set_transformation

import spade as sp
from spade.io._recorded.scale import record_scale


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


def composite(colour):
    """Nuclei as fluorescence shows them: bright blobs on black, in one colour or in all alike."""
    y, x = np.mgrid[:SIDE, :SIDE]
    light = 160 * np.clip(np.sin(x / 5) * np.sin(y / 5), 0, 1)
    return np.stack([light * share for share in colour]).astype(np.uint8) + np.uint8(6)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (composite((0.1, 0.3, 1)), "it is dark, as fluorescence is"),
        (np.repeat(pixels(0, (1, SIDE, SIDE)) // 2 + 20, 3, axis=0), "it is grey"),
    ],
)
def test_dark_and_grey_pictures_are_refused_unless_they_are_named(values, why):
    sdata = tiny(images={"image": picture(values.astype(np.uint8))})
    for make in (sp.pp.patches, partial(sp.pp.tiles, tissue_key=None)):
        with pytest.raises(
            ValueError, match=rf"images\['image'\] is not a picture of stained tissue .*{why}.*image_key="
        ):
            make(sdata)
    with pytest.warns(UserWarning, match=rf"{why}.*as image_key= names it"):
        sp.pp.patches(sdata, image_key="image", **SMALL)
    assert len(sdata["patches"]) == 36


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


def test_the_scale_of_one_section_is_not_that_of_another_whose_name_begins_alike():
    sdata = two_sections(("a", "b"))
    record_scale(sdata, sample="block")
    sdata.attrs["spade"].pop("mpp")
    for old, new in (("he_1", "image1"), ("he_2", "image10")):
        sdata.images[new] = sdata.images.pop(old)
    for old, new in (("one", "s1"), ("two", "s10")):
        sdata.shapes[new] = sdata.shapes.pop(old)
    sdata.tables["table"] = table([f"s{i:02d}" for i in range(36)] * 2, region=["s1"] * 36 + ["s10"] * 36)
    sp.pp.patches(sdata, shapes_key="s1", mpp=0.5, **SMALL)
    with pytest.raises(ValueError, match=r"the microns per pixel of images\['image10'\] are not known"):
        sp.pp.patches(sdata, shapes_key="s10", **SMALL)


def test_tables_with_spots_of_their_own_have_patches_of_their_own():
    sdata = two_sections(("a", "b"))
    ids = [f"s{i:02d}" for i in range(36)]
    sdata.tables.pop("table")
    for key, region in (("first", "one"), ("second", "two")):
        sdata.tables[key] = table(ids, region=region)
        sp.pp.patches(sdata, table_key=key, **SMALL)
    elements = {key: sdata[key].uns["spade"]["patches"]["regions"] for key in ("first", "second")}
    assert elements["first"]["one"]["element"] == "patches"
    assert elements["second"]["two"]["element"] == "patches_two"
    np.testing.assert_allclose(centres(sdata, "patches"), square_lattice(36))
    np.testing.assert_allclose(centres(sdata, "patches_two"), square_lattice(36) + 10)
    sp.pp.patches(sdata, table_key="second", **SMALL)
    sp.pp.patches(sdata, table_key="first", **SMALL)
    assert set(sdata.shapes) == {"one", "two", "patches", "patches_two"}


def test_a_copy_of_a_table_keeps_its_patches_when_those_of_the_other_change():
    sdata = tiny()
    sp.pp.patches(sdata, **SMALL)
    sdata.tables["copy"] = sdata["table"].copy()
    sp.pp.patches(sdata, table_key="copy", **SMALL)  # the same squares serve both
    assert set(sdata.shapes) == {"spots", "patches"}
    sp.pp.patches(sdata, table_key="table", size_um=64, size_px=32)
    sides = {key: float(np.sqrt(sdata[key].geometry.area.iloc[0])) for key in ("patches", "patches_spots")}
    assert sides == {"patches": 32, "patches_spots": 64}
    sp.pp.encode_patches(sdata, table_key="copy")
    assert sdata["copy"].uns["spade"]["X_texture"]["size_um"] == 32


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
        (
            {"he": picture(pixels(dtype=np.uint16))},
            None,
            ValueError,
            r"'he': 3 channels of uint16, .* Add the H&E image",
        ),
        (
            {"he": picture(), "if": picture(pixels(0, (2, 9, 9)))},
            "if",
            ValueError,
            r"images\['if'\] is not an 8-bit RGB image \('if': 2 channels of uint8, named '0', '1'\). RGB images: 'he'",
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
