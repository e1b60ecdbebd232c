"""Patches as an encoder gets them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.plots import grid, labels_of, pixels, section
from matplotlib.collections import PolyCollection
from matplotlib.patches import Circle

import spade as sp


def squares_of(ax, label):
    (found,) = [c for c in ax.collections if isinstance(c, PolyCollection) and c.get_label() == label]
    return found.get_paths()


def test_patches_are_those_that_an_encoder_gets():
    sdata = section()
    axes = sp.pl.patches(sdata, spots=["s8", "s16"])
    assert axes.shape == (1, 3)
    overview, *panels = axes[0]
    assert len(squares_of(overview, "valid")) == 35
    assert squares_of(overview, "valid")[8].vertices.min(0).tolist() == [2 * 70 - 20, 2 * 70 - 20]
    assert squares_of(overview, "valid")[8].vertices.max(0).tolist() == [2 * 70 + 20, 2 * 70 + 20]
    for panel, (x, y), name in zip(panels, grid()[[8, 16]].astype(int), ("1  s8", "2  s16"), strict=True):
        expected = pixels()[:, y - 10 : y + 10, x - 10 : x + 10].transpose(1, 2, 0)
        np.testing.assert_array_equal(panel.images[0].get_array(), expected)
        assert list(panel.images[0].get_extent()) == [2 * x - 20, 2 * x + 20, 2 * y + 20, 2 * y - 20]
        (spot,) = [p for p in panel.patches if isinstance(p, Circle)]
        assert (spot.center, 2 * spot.radius) == ((2 * x, 2 * y), 40)
        assert panel.get_title(loc="left") == name
    assert (
        overview.get_title(loc="left")
        == f"{sdata.attrs['spade']['sample']}: 40 µm patches\n20 px at 2 µm/px (image 2 µm/px)"
    )
    assert [text.get_text() for text in overview.texts if text.get_gid() is None] == ["1", "2"]


def test_patches_off_the_image_are_told_apart():
    centres = grid()
    centres[:2, 0] -= 100
    with pytest.warns(UserWarning, match="2 of 35"):
        sdata = section(centres)
    overview, *panels = sp.pl.patches(sdata, n=100)[0]
    assert (len(squares_of(overview, "valid")), len(squares_of(overview, "not valid"))) == (33, 2)
    assert labels_of(overview) == ["valid (33)", "not valid (2)"]
    assert overview.get_xlim()[0] < 2 * centres[:, 0].min()
    assert [panel.get_title(loc="left").split()[-1] for panel in panels] == [f"s{i}" for i in range(2, 35)]
    assert sp.pl.patches(sdata, spots="s0")[0, 1].get_title(loc="left") == "1  s0 (not valid)"


def test_patches_are_drawn_anew_only_with_another_seed(cohort):
    def titles(rng):
        return [ax.get_title(loc="left") for ax in sp.pl.patches(cohort, n=3, rng=rng)[:, 1:].ravel()]

    assert titles(0) == titles(0) != titles(1)


def test_spots_are_found_in_the_sections_that_have_them():
    sdata = section(regions=("a", "b"))
    axes = sp.pl.patches([sdata, section(grid(2, 1))], spots=["s1", "s30"])
    assert [[ax.get_visible() for ax in row] for row in axes] == [[True] * 3, [True] * 3, [True, True, False]]
    with pytest.raises(
        KeyError,
        match=r"spots: 'x', 'y' not found; spots have names like 's0', 's1'.*sample [0-9a-f]{6}/a, sample \w+/b",
    ):
        sp.pl.patches(sdata, spots=["s1", "x", "y"])
    with pytest.raises(ValueError, match="n=0: expected a whole number of at least 1"):
        sp.pl.patches(sdata, n=0)
