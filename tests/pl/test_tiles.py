"""Tissue and tiles of whole slides."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.plots import labels_of
from helpers.whole_slides import MPP, pieces, slide_of
from matplotlib.collections import LineCollection, PolyCollection

import spade as sp


@pytest.fixture
def slide():
    sdata = slide_of(pieces()[0])
    sp.pp.tissue(sdata, mpp=MPP)
    return sdata


def of_kind(ax, kind):
    (found,) = [one for one in ax.collections if type(one) is kind]
    return found


def test_outlines_and_tiles_lie_where_they_are_in_µm(slide):
    (before,) = sp.pl.tiles(slide)
    (label,) = labels_of(before)
    assert label == f"tissue: 2 pieces, {slide['tissue']['area_mm2'].sum():.3g} mm²"
    sp.pp.tiles(slide, size_px=56)
    (ax,) = sp.pl.tiles(slide)
    rings = of_kind(ax, LineCollection).get_segments()
    expected = np.array(slide["tissue"].geometry[0].exterior.coords) * MPP
    np.testing.assert_allclose(rings[0], expected)
    tiles = of_kind(ax, PolyCollection).get_paths()
    bounds = slide["tiles"].geometry.bounds.to_numpy() * MPP
    np.testing.assert_allclose([path.vertices.min(0) for path in tiles], bounds[:, :2])
    assert labels_of(ax) == [label, f"{len(tiles)} tiles of 112 µm"]
    assert ax.get_title(loc="left") == "slide_1 (2 µm/px)"
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 2800), (2000, 0))
    assert list(ax.images[0].get_extent()) == [0, 2800, 2000, 0]


def test_stores_several_slides_and_what_is_missing(slide, tmp_path):
    sp.io.write(slide, tmp_path / "slide_1.zarr")
    bare = slide_of(pieces()[0], name="bare")
    with pytest.raises(
        KeyError, match="bare: there are no tiles in tiles_key='tiles' and no tissue in tissue_key='tissue'"
    ):
        sp.pl.tiles(bare)
    sp.pp.tiles(bare, tissue_key=None, size_px=56, mpp=MPP)
    axes = sp.pl.tiles([tmp_path / "slide_1.zarr", bare])
    assert [ax.get_title(loc="left").split()[0] for ax in axes] == ["slide_1", "bare"]
    assert labels_of(axes[1]) == [f"{17 * 25} tiles of 112 µm"]
    figure = sp.pl.tiles([slide, bare], ncols=1, figsize=(4, 8), alpha_img=0.5, return_fig=True)
    assert figure.axes[0].get_position().y0 > figure.axes[1].get_position().y1
    assert {ax.images[0].get_alpha() for ax in figure.axes} == {0.5}
    with pytest.raises(ValueError, match="ax: got 2 Axes for 1 panels: 1 slide"):
        sp.pl.tiles(slide, ax=axes)


def test_tiles_on_earlier_tissue_are_left_out_or_refused(slide):
    sp.pp.tiles(slide, size_px=56)
    sp.pp.tiles(slide, size_px=56, key_added="mine")
    sp.pp.tissue(slide, min_area_mm2=0.9)
    with pytest.warns(UserWarning, match="slide_1: the tiles were made from 'tissue', .* not drawn. Run sp.pp.tiles"):
        (ax,) = sp.pl.tiles(slide)
    assert labels_of(ax) == [f"tissue: 1 piece, {slide['tissue']['area_mm2'].sum():.3g} mm²"]
    with pytest.raises(ValueError, match=r"'patches' was made from 'tissue', which .*Run sp.pp.tiles again"):
        sp.pl.tiles(slide, tiles_key="mine")
    with pytest.raises(ValueError, match=r"'patches' was made from 'tissue', which .*Run sp.pp.tiles again"):
        sp.pl.slide(slide, "tissue_share", table_key="tiles")
