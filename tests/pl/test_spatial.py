"""Genes and columns of obs on the tissue: which values, where, in which colours, and what unknown names say."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from _sections import read_bulb, read_tumour
from helpers.plots import MPP, grid, labels_of, section, spots_of
from helpers.whole_slides import MPP as SLIDE_MPP
from helpers.whole_slides import pieces, slide_of
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex

import spade as sp
from spade._keys import forget_provenance


def unpatched(**options):
    """A section that was just read."""
    sdata = section(**options)
    forget_provenance(sdata["table"].uns, "patches")
    del sdata.shapes["patches"]
    return sdata


def log_expression(table, gene):
    counts = table.X.toarray()
    with np.errstate(invalid="ignore"):
        return np.log1p(1e4 * counts[:, table.var_names.get_loc(gene)] / counts.sum(1))


def test_a_column_per_colour_and_a_row_per_section_to_one_scale():
    samples = [section(genes=4), section(grid(4, 3), genes=4)]
    samples[1]["table"].X = samples[1]["table"].X * 3
    for sample, names in zip(samples, (["a", "b"], ["b", "c"]), strict=True):
        table = sample["table"]
        table.obs["kind"] = pd.Categorical(np.array(names)[np.arange(table.n_obs) % 2])
    samples[1]["table"].X[2] = 0
    axes = sp.pl.spatial(samples, ["G1", "kind", "spade_expert"])
    assert axes.shape == (2, 3)
    values = [log_expression(sample["table"], "G1") for sample in samples]
    for row, sample, own in zip(axes, samples, values, strict=True):
        name = sample.attrs["spade"]["sample"]
        assert [ax.get_title(loc="left") for ax in row] == [f"{name}: {c}" for c in ("G1", "kind", "spade_expert")]
        spots = spots_of(row[0])
        np.testing.assert_allclose(spots.get_array().filled(np.nan), own, rtol=1e-5)
        assert spots.get_clim() == pytest.approx((np.nanmin(np.concatenate(values)), np.nanmax(np.concatenate(values))))
        np.testing.assert_allclose(spots.get_widths(), 20 * MPP)
        assert spots.colorbar.ax.get_ylabel() == "G1"
    colours = [dict(zip(labels_of(ax), ax.get_legend().legend_handles, strict=True)) for ax in axes[:, 1]]
    assert [list(one) for one in colours] == [["a (18)", "b (17)"], ["b (6)", "c (6)"]]
    assert len({one[label].get_markerfacecolor() for one, label in zip(colours, ("b (17)", "b (6)"), strict=True)}) == 1
    assert [labels_of(ax)[0] for ax in axes[:, 2]] == ["0 (18)", "0 (6)"]


def test_a_section_is_drawn_before_and_after_its_patches_alike():
    one, other = unpatched(genes=2), section(genes=2)
    ((before,),) = sp.pl.spatial(one, "G0", mpp=MPP)
    ((after,),) = sp.pl.spatial(other, "G0")
    np.testing.assert_allclose(spots_of(before).get_offsets(), spots_of(after).get_offsets())
    np.testing.assert_allclose(spots_of(before).get_widths(), spots_of(after).get_widths())
    assert list(one.shapes) == ["spots"]
    with pytest.raises(ValueError, match=r"microns per pixel.*mpp="):
        sp.pl.spatial(unpatched(genes=2), "G0")
    with pytest.raises(ValueError, match=r"mpp=2\.0: the patches say on which image they lie"):
        sp.pl.spatial(other, "G0", mpp=MPP)


def test_without_a_colour_the_image_is_not_faded_and_spots_are_outlines():
    ((ax,),) = sp.pl.spatial(unpatched(), mpp={"spots": MPP})
    assert ax.images[0].get_alpha() == 1
    spots = spots_of(ax)
    assert (len(spots.get_offsets()), len(spots.get_facecolors())) == (35, 0)
    with pytest.raises(ValueError, match="cmap='magma', layer='X': color=None draws the outlines"):
        sp.pl.spatial(section(), cmap="magma", layer="X")


def test_scanpys_arguments_are_followed():
    sdata = section(genes=3)
    obs = sdata["table"].obs
    obs["kind"] = pd.Categorical(np.array(["a", "b", "c"])[np.arange(35) % 3])
    axes = sp.pl.spatial(
        sdata, ["kind", "G0"], palette={"a": "red", "b": "#00ff00", "c": "b"}, groups=["c", "a"], cmap="magma",
        vmin=1, vmax="p50", size=0.5, alpha_img=0.25, figsize=(9, 4),
    )  # fmt: skip
    kinds, gene = axes[0]
    assert labels_of(kinds) == ["a (12)", "c (11)", "not in groups (12)"]
    faces = spots_of(kinds).get_facecolors()
    assert [to_hex(face, keep_alpha=True) for face in faces[:3]] == ["#ff0000ff", "#00000000", "#0000ffff"]
    values = log_expression(sdata["table"], "G0")
    assert spots_of(gene).get_clim() == pytest.approx((1, np.median(values)))
    assert spots_of(gene).cmap.name == "magma"
    assert spots_of(gene).cmap.colorbar_extend == ("both" if values.min() < 1 else "max")
    for ax in axes[0]:
        np.testing.assert_allclose(spots_of(ax).get_widths(), 10 * MPP)
        assert ax.images[0].get_alpha() == 0.25
    assert kinds.figure.get_size_inches().tolist() == [9, 4]
    figure = sp.pl.spatial(sdata, ["G0", "G1", "G0"], ncols=2, return_fig=True)
    np.testing.assert_array_equal(*(spots_of(figure.axes[i]).get_array() for i in (0, 2)))
    places = {tuple(ax.get_subplotspec().get_position(figure).p0.round(2)) for ax in figure.axes[:3]}
    assert len({x for x, _ in places}) == len({y for _, y in places}) == 2
    _, given = plt.subplots(1, 2)
    assert sp.pl.spatial(sdata, ["kind", "G0"], ax=given)[0, 1] is given[1]
    with pytest.raises(ValueError, match=r"ncols=1, figsize=\(3, 3\): the Axes of ax= are drawn into"):
        sp.pl.spatial(sdata, "G0", ax=given[:1], ncols=1, figsize=(3, 3))


def test_layers_and_predicted_genes_are_read_where_they_are():
    sdata = section(genes=3)
    table = sdata["table"]
    table.layers["mine"] = table.X * 0.5
    table.obsm["X_predicted"] = np.arange(35 * 2, dtype=np.float32).reshape(35, 2)
    table.uns["predicted_genes"] = np.array(["ERBB2", "CD3E"], dtype=object)
    ((gene, predicted, _),) = sp.pl.spatial(
        sdata, ["G2", "X_predicted:CD3E", "spade_expert"], layer="mine", normalized=True
    )
    np.testing.assert_allclose(spots_of(gene).get_array(), table.X.toarray()[:, 2] * 0.5)
    np.testing.assert_array_equal(spots_of(predicted).get_array(), np.arange(1, 70, 2))
    with pytest.raises(KeyError, match=r"color='CD3E' is neither .*did you mean 'X_predicted:CD3E'\?"):
        sp.pl.spatial(sdata, "CD3E")
    with pytest.raises(KeyError, match=r"color='g1' is neither.*; did you mean 'G1'"):
        sp.pl.spatial(sdata, ["spade_expert", "g1"])
    with pytest.raises(ValueError, match="layer='mine': color='spade_expert' is no expression of a gene"):
        sp.pl.spatial(sdata, "spade_expert", layer="mine")


def test_tiles_are_squares_of_their_side():
    slide = slide_of(pieces()[0])
    sp.pp.tiles(slide, tissue_key=None, size_px=56, mpp=SLIDE_MPP)
    ((ax,),) = sp.pl.spatial(slide, "tile_col", size=0.5, alpha=0.6)
    (squares,) = [one for one in ax.collections if isinstance(one, PolyCollection)]
    np.testing.assert_array_equal(squares.get_array(), slide["tiles_table"].obs["tile_col"])
    assert squares.get_alpha() == 0.6
    corners = squares.get_paths()[0].vertices
    np.testing.assert_allclose(corners.max(0) - corners.min(0), 56)
    np.testing.assert_allclose(corners[:4].mean(0), 56)
    ((ax,),) = sp.pl.spatial(slide)
    assert ax.get_title(loc="left") == f"slide_1 ({len(slide['tiles'])} tiles)"


@pytest.mark.realdata
def test_sections_that_were_just_read(data_dir):
    bulb = read_bulb(data_dir / "mob", "11")
    ((gene, label),) = sp.pl.spatial(bulb, ["Penk", "label"])
    table = bulb["table"]
    granular = (table.obs["label"] == "Granular Cell Layer").to_numpy()
    values = spots_of(gene).get_array()
    assert values[granular].mean() > values[~granular].mean() + 0.2  # Penk marks granule cells
    assert sum(int(text.split("(")[1][:-1]) for text in labels_of(label)) == 262
    np.testing.assert_allclose(spots_of(gene).get_widths(), 100, rtol=0.02)
    phone = sp.pl.spatial(bulb, "label", figsize=(4, 4), return_fig=True)
    phone.canvas.draw()
    legend = phone.axes[0].get_legend().get_window_extent()
    assert legend.y1 < phone.axes[0].get_window_extent().y0
    assert (legend.y0 > 0) & (legend.x1 < phone.bbox.x1)


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:B4:UserWarning")
def test_a_tumour_that_was_just_read(data_dir):
    ((ax,),) = sp.pl.spatial(read_tumour(data_dir / "her2st", "B4", labels=True), "ERBB2", vmax="p99")
    assert len(spots_of(ax).get_offsets()) == 283
    assert spots_of(ax).cmap.colorbar_extend == "max"
