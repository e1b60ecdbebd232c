"""Slides with the values of their tiles: what is read, where it lies, and what colours, bars and legends say."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers.plots import RED, labels_of, section, shown_at
from helpers.scans.wsi import plain_slide, pyramid
from helpers.whole_slides import MPP, copied, pieces, slide_of
from matplotlib.colors import to_rgb

import spade as sp
from spade._keys import write_provenance
from spade.io._images.tiff import TiffLevel

SIDE = 112.0


@pytest.fixture(scope="module")
def laid():
    """A slide of 2,800 × 2,000 µm under 25 × 17 tiles, in three kinds; the first row of tiles has no kind or score."""
    sdata = slide_of(pieces()[0])
    sp.pp.tiles(sdata, tissue_key=None, size_px=56, mpp=MPP)
    obs = sdata["tiles_table"].obs
    obs["score"] = obs["tile_col"].astype(float).where(obs["tile_row"] > 0)
    kinds = np.array(["stroma", "tumour", "fat"])[obs["tile_col"] % 3]
    obs["kind"] = pd.Categorical(np.where(obs["tile_row"] > 0, kinds, None), categories=["tumour", "stroma", "fat"])
    sdata["tiles_table"].uns["kind_colors"] = np.array(["#ff0000", "#00ff00", "#0000ff"])
    return sdata


@pytest.fixture
def slide(laid):
    return copied(laid)


def middle(row, column):
    return (column + 0.5) * SIDE, (row + 0.5) * SIDE


def test_an_image_alone_needs_neither_table_nor_tiles():
    sdata = slide_of(pieces()[0])
    with pytest.raises(ValueError, match="microns per pixel"):
        sp.pl.slide(sdata)
    sp.pp.tissue(sdata, mpp=MPP)
    (ax,) = sp.pl.slide(sdata)
    assert ax.get_title(loc="left") == "slide_1"
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 2800), (2000, 0))
    assert len(ax.images) == 1
    assert {"500 µm"} == {text.get_text() for text in ax.texts}


def test_a_panel_is_read_from_the_level_that_suits_it(tmp_path, monkeypatch):
    path = plain_slide(tmp_path / "slide.tif", pyramid(factors=(1, 2, 4, 8)))
    read = []
    region = TiffLevel.region
    sdata = sp.io.read_wsi(path)
    monkeypatch.setattr(TiffLevel, "region", lambda level, *key: read.append(level.page) or region(level, *key))
    sp.pl.slide(sdata, um_per_px=4.1)  # 0.5 µm/px, halved three times
    assert set(read) == {(3,)}
    read.clear()
    (ax,) = sp.pl.slide(sdata, region=(100, 100, 300, 250), um_per_px=1.01)
    assert set(read) == {(1,)}
    assert ax.images[0].get_array().shape[:2] == (151, 200)


def test_categories_lie_on_their_tiles_in_their_colours(slide):
    (ax,) = sp.pl.slide(slide, "kind", table_key="tiles", alpha=1)
    assert ax.get_title(loc="left") == "slide_1: kind"
    colours = {"tumour": (255, 0, 0), "stroma": (0, 255, 0), "fat": (0, 0, 255)}
    obs = slide["tiles_table"].obs
    for tile in ("tile_0001_0000", "tile_0008_0013", "tile_0016_0024"):
        at = middle(obs.loc[tile, "tile_row"], obs.loc[tile, "tile_col"])
        np.testing.assert_array_equal(shown_at(ax, *at), colours[obs.loc[tile, "kind"]])
    picture = ax.images[1]
    assert picture.get_array().shape == (18, 25, 4)  # a pixel per tile
    assert list(picture.get_extent()) == [0, 2800, 2016, 0]
    assert (picture.get_array()[[0, -1], :, 3] == 0).all()  # no kind, and no tiles
    assert not ax.patches
    assert not ax.collections
    assert labels_of(ax) == ["tumour (128)", "stroma (144)", "fat (128)", "missing (25)"]
    assert ax.get_legend().get_title().get_text() == "kind (tiles)"


def test_numbers_get_a_bar_and_what_is_missing_stays_clear(slide):
    (ax,) = sp.pl.slide(slide, "score", table_key="tiles")
    picture = ax.images[1]
    values = np.ma.getdata(picture.get_array())
    np.testing.assert_array_equal(values[1:17], np.tile(np.arange(25.0), (16, 1)))
    assert picture.get_array().mask[[0, -1]].all()
    assert not picture.get_array().mask[1:17].any()
    assert (picture.norm.vmin, picture.norm.vmax) == (0, 24)
    (bar,) = ax.child_axes
    assert bar.get_ylabel() == "score"
    (again,) = sp.pl.slide(slide, "score", table_key="tiles", vmin=5, vmax=10, cmap="magma")
    assert (again.images[1].norm.vmin, again.images[1].norm.vmax) == (5, 10)
    assert again.images[1].cmap.colorbar_extend == "both"
    assert again.images[1].cmap.name == "magma"
    assert plt.colormaps["magma"].colorbar_extend != "both"


def test_palettes_groups_and_figures_are_scanpys(slide):
    other = copied(slide)
    other.attrs["spade"]["sample"] = "slide_2"
    figure = sp.pl.slide(
        [slide, other], "kind", table_key="tiles", alpha=1, palette={"tumour": "k", "stroma": "w", "fat": "y"},
        groups=["tumour", "fat"], alpha_img=0.2, ncols=1, figsize=(6, 8), return_fig=True,
    )  # fmt: skip
    upper, lower = figure.axes
    assert figure.get_size_inches().tolist() == [6, 8]
    assert upper.get_position().y0 > lower.get_position().y1
    assert labels_of(upper) == ["tumour (128)", "fat (128)", "not in groups (169)"]
    assert upper.images[0].get_alpha() == 0.2
    np.testing.assert_array_equal(shown_at(upper, *middle(8, 13)), (0, 0, 0))
    assert (upper.images[1].get_array()[1:17, 0::3, 3] == 0).all()  # stroma
    (ax,) = sp.pl.slide(slide, "score", table_key="tiles", vmin="p25", vmax="p75")
    assert (ax.images[1].norm.vmin, ax.images[1].norm.vmax) == (6, 18)
    with pytest.raises(ValueError, match=r"palette=.*: numbers are coloured by cmap="):
        sp.pl.slide(slide, "score", table_key="tiles", palette="Set2")


def test_a_part_of_a_slide_counts_its_own_tiles(slide):
    box = (4 * SIDE, 2 * SIDE, 7 * SIDE, 4 * SIDE)
    (ax,) = sp.pl.slide(slide, "kind", region=box, table_key="tiles")
    assert (ax.get_xlim(), ax.get_ylim()) == ((box[0], box[2]), (box[3], box[1]))
    assert labels_of(ax) == ["tumour (2)", "stroma (2)", "fat (2)"]
    assert ax.images[1].get_array().shape[:2] == (2, 3)
    with pytest.raises(ValueError, match=r"region=\(3000, 0, 4000, 10\) lies outside the image of 2,800 × 2,000 µm"):
        sp.pl.slide(slide, region=(3000, 0, 4000, 10))
    with pytest.raises(ValueError, match=r"um_per_px=0\.01: 2,800 µm would be 280,000 pixels"):
        sp.pl.slide(slide, um_per_px=0.01)


def test_patches_around_spots_genes_and_columns_of_obsm():
    sdata = section(genes=3)
    table = sdata["table"]
    table.obsm["X_predicted"] = np.arange(table.n_obs * 3, dtype=np.float32).reshape(-1, 3)
    table.uns["predicted_genes"] = np.array(["ERBB2", "CD3E", "KRT5"])
    table.X[4] = 0
    (ax,) = sp.pl.slide(sdata, "G1", alpha=1)
    counts = table.X.toarray()
    with np.errstate(invalid="ignore"):
        known = np.log1p(counts[:, 1] * 1e4 / counts.sum(1))
    shown = ax.images[1].get_array()
    x, y = 30 * MPP, 30 * MPP
    assert shown.shape == (12, 15)  # patches of 40 µm on every second place of a grid
    np.testing.assert_allclose(shown[1::2, 1::2].filled(np.nan)[:5].ravel(), known, rtol=1e-5)
    assert np.isnan(known[4])
    assert len(np.unique(shown.compressed())) == len(np.unique(known[np.isfinite(known)].astype(np.float32)))
    np.testing.assert_array_equal(shown_at(ax, 5, 5), RED)  # between the patches
    (ax,) = sp.pl.slide(sdata, "X_predicted:CD3E", region=(x - 5, y - 5, x + 5, y + 5))
    assert set(ax.images[1].get_array().compressed()) == {1.0}
    (ax,) = sp.pl.slide(sdata, "spade_expert")
    assert labels_of(ax) == ["0 (18)", "1 (17)"]
    assert ax.get_legend().get_title().get_text() == "spade_expert (patches)"
    with pytest.raises(KeyError, match=r"obsm\['X_predicted'\] has the columns 'ERBB2', 'CD3E', 'KRT5'; name one"):
        sp.pl.slide(sdata, "X_predicted")
    with pytest.raises(
        KeyError, match=r"color='ERBB9' is neither.*'spade_expert'.*genes: 'G0', 'G1', 'G2'.*X_predicted"
    ):
        sp.pl.slide(sdata, "ERBB9")
    with pytest.raises(ValueError, match="layer='X': color='spade_expert' is no expression of a gene"):
        sp.pl.slide(sdata, "spade_expert", layer="X")


def test_attention_is_drawn_as_its_percentile():
    sdata = section()
    table = sdata["table"]
    table.obs["organ_attention"] = np.arange(1.0, 36) / 630
    with pytest.raises(KeyError, match=r"color='attention': expected one column that sp\.tl\.attention wrote"):
        sp.pl.slide(sdata, "attention")
    table.obs["organ_attention_predicted"] = pd.Categorical(["lung"] * 35)
    write_provenance(table.uns, "organ_attention", function="tl.attention", label_key="organ")
    for color in ("attention", "organ_attention"):
        (ax,) = sp.pl.slide(sdata, color)
        picture = ax.images[1]
        assert (picture.norm.vmin, picture.norm.vmax, picture.cmap.name) == (0, 100, "inferno")
        np.testing.assert_allclose(np.unique(picture.get_array().compressed()), 100 * (np.arange(35) + 0.5) / 35)
        (bar,) = ax.child_axes
        assert bar.get_ylabel() == "attention, percentile of the slide"


def test_several_slides_share_colours_and_values(slide, tmp_path):
    other = copied(slide)
    other.attrs["spade"]["sample"] = "slide_2"
    other["tiles_table"].obs["score"] += 100
    sp.io.write(other, tmp_path / "slide_2.zarr")
    axes = sp.pl.slide([slide, tmp_path / "slide_2.zarr"], "score", table_key="tiles")
    assert [ax.get_title(loc="left") for ax in axes] == ["slide_1: score", "slide_2: score"]
    assert {(ax.images[1].norm.vmin, ax.images[1].norm.vmax) for ax in axes} == {(0, 124)}
    with pytest.raises(ValueError, match="ax: got 2 Axes for 1 panels"):
        sp.pl.slide(slide, ax=axes)


def test_many_tiles_are_one_picture(slide):
    sp.pp.tiles(slide, tissue_key=None, size_um=10, size_px=5, mpp=MPP, key_added="fine")
    table = slide["fine_table"]
    assert table.n_obs == 280 * 200
    table.obs["number"] = np.arange(table.n_obs)
    (ax,) = sp.pl.slide(slide, "number", table_key="fine")
    np.testing.assert_array_equal(ax.images[1].get_array(), np.arange(56_000).reshape(200, 280))
    assert not ax.patches
    assert not ax.collections


def test_scale_bar_and_text_are_seen_on_a_dark_page(slide):
    with plt.style.context("dark_background"):
        (ax,) = sp.pl.slide(slide, "kind", table_key="tiles")
        (bar,) = [line for line in ax.lines if line.get_gid() == "scale bar"]
        assert to_rgb(bar.get_color()) == (1, 1, 1)
