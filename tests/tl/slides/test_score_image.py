"""Values of tiles as images: where they lie, what they hold, and that nothing takes them for tissue."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.plots import section
from helpers.whole_slides import MPP, copied, pieces, slide_of
from spatialdata import read_zarr
from spatialdata.transformations import get_transformation

import spade as sp
from spade.io._recorded.frames import image_arrays, matrix_to

SIDE = 112.0


@pytest.fixture(scope="module")
def laid():
    sdata = slide_of(pieces()[0])
    sp.pp.tiles(sdata, tissue_key=None, size_px=56, mpp=MPP)
    obs = sdata["tiles_table"].obs
    obs["score"] = (obs["tile_col"] + 100 * obs["tile_row"]).astype(float).where(obs["tile_row"] > 0)
    obs["kind"] = pd.Categorical(np.where(obs["tile_row"] > 0, "b", None), categories=["a", "b"])
    sdata["tiles_table"].uns["kind_colors"] = np.array(["#ff0000", "#01e0f0"])
    return sdata


@pytest.fixture
def slide(laid):
    return copied(laid)


def values(sdata, key, level=0):
    return np.asarray(image_arrays(sdata[key])[level])


def test_numbers_are_kept_and_lie_on_their_tiles(slide, tmp_path):
    sp.io.write(slide, tmp_path / "slide.zarr")
    for samples in (slide, tmp_path / "slide.zarr"):
        sp.tl.score_image(samples, "score")
    stored = read_zarr(tmp_path / "slide.zarr")
    image = values(slide, "score")
    assert (image.dtype, image.shape) == (np.float32, (1, 143, 200))  # 14 µm/px over 2,800 × 2,000 µm
    np.testing.assert_array_equal(image, values(stored, "score"))
    row, column = np.indices((143, 200)) // 8
    on_tile = (row > 0) & (row < 17)
    np.testing.assert_array_equal(image[0], np.where(on_tile, column + 100.0 * row, np.nan))
    for sdata in (slide, stored):
        np.testing.assert_allclose(matrix_to(sdata["score"], "global"), np.diag([7, 7, 1]))
        assert sdata.attrs["spade"]["mpp"]["score"] == 14
        assert sdata["tiles_table"].obs["score"].equals(slide["tiles_table"].obs["score"])


def test_categories_become_colours_and_clear_pixels(slide):
    sp.tl.score_image(slide, "kind", um_per_px=28.0, key_added="map")
    image = values(slide, "map")
    assert (image.dtype, image.shape) == (np.uint8, (4, 72, 100))
    assert list(slide["map"]["scale0"].coords["c"].values) == [*"rgba"]
    on_tile = np.repeat((np.arange(72) // 4 > 0) & (np.arange(72) // 4 < 17), 100).reshape(72, 100)
    np.testing.assert_array_equal(image[:, on_tile].T, np.tile([1, 224, 240, 255], (on_tile.sum(), 1)))
    assert not image[:, ~on_tile].any()


def test_levels_halve_and_cover_the_same_area(slide):
    sp.tl.score_image(slide, "score", um_per_px=0.9)
    levels = [one.shape for one in image_arrays(slide["score"])]
    assert len(levels) == 3
    assert levels == [(1, levels[0][1] >> i, levels[0][2] >> i) for i in range(3)]
    assert levels[0][1] * 0.9 >= 2000 > (levels[0][1] - 4) * 0.9
    y, x = round(500 / 0.9), round(700 / 0.9)
    assert values(slide, "score", 0)[0, y, x] == values(slide, "score", 2)[0, y // 4, x // 4] == 100 * 4 + 6


def test_other_systems_and_a_second_run(slide):
    from spatialdata.transformations import Affine, set_transformation

    turned = Affine([[0, -3, 10], [3, 0, 20], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
    set_transformation(slide["he"], turned, "turned")
    sp.tl.score_image(slide, "score")
    assert set(get_transformation(slide["score"], get_all=True)) == {"global", "turned"}
    expected = matrix_to(slide["he"], "turned") @ np.diag([7, 7, 1])
    np.testing.assert_allclose(matrix_to(slide["score"], "turned"), expected)
    slide["tiles_table"].obs["score"] *= 2
    sp.tl.score_image(slide, "score")
    assert values(slide, "score")[0, 20, 30] == 2 * (200 + 3)
    with pytest.raises(ValueError, match=r"images/he is there, and sp\.tl\.score_image did not write it"):
        sp.tl.score_image(slide, "score", key_added="he")
    with pytest.raises(
        KeyError, match=r"color='scor' is neither a column of obs .*; did you mean 'score'\? obs: .*'score'"
    ):
        sp.tl.score_image(slide, "scor")


def test_it_is_not_taken_for_the_picture_of_the_tissue(slide):
    sp.tl.score_image(slide, "kind", um_per_px=MPP / 2)  # finer than the picture
    del slide.tables["tiles_table"], slide.shapes["tiles"]
    sp.pp.tissue(slide, mpp=MPP)
    assert slide.attrs["spade"]["tissue"]["image"] == "he"


def test_each_section_gets_its_own():
    sdata = section(regions=("a", "b"))
    sp.tl.score_image(sdata, "spade_expert", key_added="expert", um_per_px=4)
    assert {"expert_a", "expert_b"} < set(sdata.images)
    weights = sdata["table"].obs["spade_expert"]
    colours = dict(zip(weights.cat.categories, sdata["table"].uns["spade_expert_colors"], strict=True))
    first = bytes.fromhex(colours[weights.iloc[0]].removeprefix("#"))
    assert tuple(values(sdata, "expert_a")[:3, 15, 15]) == tuple(first)


def test_a_category_has_one_colour_in_all_samples(slide):
    other = copied(slide)
    for one, categories in ((slide, ["stroma", "tumour"]), (other, ["tumour"])):
        table = one["tiles_table"]
        table.obs["label"] = pd.Categorical(np.resize(categories, table.n_obs))
    other.attrs["spade"]["sample"] = "slide_2"
    sp.tl.score_image([slide, other], "label")
    first, second = (values(one, "label")[:, 4, 12] for one in (slide, other))  # the second tile of the first row
    assert first[3] == 255
    np.testing.assert_array_equal(first, second)
