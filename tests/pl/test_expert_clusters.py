"""Experts and their entropy on the tissue, by what the artists hold."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.plots import MPP, grid, labels_of, pixels, section, shown_at, spots_of
from matplotlib.colors import to_hex

import spade as sp
from spade._samples.experts import palette
from spade._samples.shown.colours import SAFE
from spade.core.experts.routing import routing_entropy


def test_clusters_are_circles_of_true_size_in_the_colours_of_uns(embedded):
    axes = sp.pl.expert_clusters(embedded)
    assert axes.shape == (2, 2)
    for row, sdata in zip(axes, embedded, strict=True):
        table, spots = sdata["table"], spots_of(row[0])
        mpp = sdata.attrs["spade"]["mpp"]["image"]
        np.testing.assert_allclose(spots.get_offsets(), table.obsm["spatial"] * mpp)
        np.testing.assert_allclose(spots.get_widths(), 2 * sdata["spots"]["radius"].iloc[0] * mpp)
        experts = table.obs["spade_expert"]
        colours = dict(zip(experts.cat.categories, table.uns["spade_expert_colors"], strict=True))
        assert [to_hex(c) for c in spots.get_facecolors()] == [colours[e] for e in experts]
        counts = experts.value_counts(sort=False)
        assert labels_of(row[0]) == [f"{e} ({n})" for e, n in counts.items() if n]
        handles = row[0].get_legend().legend_handles
        assert [h.get_markerfacecolor() for h in handles] == [colours[e] for e, n in counts.items() if n]
        assert row[0].get_title(loc="left") == f"{sdata.attrs['spade']['sample']}: expert"


def test_a_single_expert_has_no_entropy_panel(embedded):
    for sdata in embedded:
        sdata["table"].obsm["spade_expert_weights"] = np.ones((sdata["table"].n_obs, 1), dtype=np.float32)
    assert sp.pl.expert_clusters(embedded).shape == (2, 1)
    assert sp.pl.expert_clusters(embedded, entropy=True).shape == (2, 2)


def test_entropy_panels_hold_the_entropy_of_the_weights(embedded):
    for row, sdata in zip(sp.pl.expert_clusters(embedded), embedded, strict=True):
        weights = sdata["table"].obsm["spade_expert_weights"]
        spots = spots_of(row[1])
        np.testing.assert_allclose(spots.get_array(), routing_entropy(weights.astype(float)), atol=1e-12)
        assert spots.get_clim() == pytest.approx((0, np.log(3)))
        assert spots.colorbar.ax.get_ylabel() == "entropy (nats), up to log 3"
        assert f"mean {routing_entropy(weights).mean():.2f} nats" in row[1].get_title(loc="left")


def test_the_image_is_the_right_way_up_and_the_spots_lie_on_it():
    centres = np.array([[120.0, 100.0], [200.0, 180.0], [30.0, 200.0]])
    sdata = section(centres)
    ((ax, _),) = sp.pl.expert_clusters(sdata)
    left, right, bottom, top = (int(edge / MPP) for edge in ax.images[0].get_extent())
    assert top < bottom
    np.testing.assert_array_equal(ax.images[0].get_array(), pixels()[:, top:bottom, left:right].transpose(1, 2, 0))
    (x0, x1), (y1, y0) = ax.get_xlim(), ax.get_ylim()
    assert y0 < y1  # y down
    assert ax.get_aspect() == 1
    assert max(x0 - MPP * left, MPP * right - x1, y0 - MPP * top, MPP * bottom - y1) < MPP
    for (x, y), face in zip(centres, spots_of(ax).get_facecolors(), strict=True):
        assert to_hex(shown_at(ax, MPP * x, MPP * y) / 255) == to_hex(face)


def test_a_red_upper_left_corner_is_drawn_in_the_upper_left():
    ((overview, *_),) = sp.pl.patches(section(), n=1)
    red = shown_at(overview, 36, 36)
    assert red[0] - red[1] > 80
    for x, y in ((565, 402), (36, 130), (108, 36), (565, 36), (36, 402)):
        grey = shown_at(overview, x, y)
        assert abs(grey[0] - grey[1]) < 40


def test_panels_of_sections_of_different_size_are_equal_and_to_one_scale():
    axes = sp.pl.expert_clusters([section(), section(grid(4, 3))])
    spans = {(float(np.ptp(ax.get_xlim())), float(np.ptp(ax.get_ylim()))) for ax in axes.ravel()}
    assert len({tuple(np.round(span, 6)) for span in spans}) == 1
    axes[0, 0].figure.canvas.draw()
    sizes = np.array([ax.get_window_extent().size for ax in axes.ravel()])
    np.testing.assert_allclose(sizes, sizes[:1].repeat(len(sizes), 0), rtol=1e-3)
    for ax in axes.ravel():
        assert [text.get_text() for text in ax.texts if text.get_gid() == "scale bar"] == ["100 µm"]
        (bar,) = [line for line in ax.lines if line.get_gid() == "scale bar"]
        assert np.ptp(bar.get_xdata()) == 100


def test_regions_of_one_object_are_rows():
    sdata = section(regions=("a", "b"))
    axes = sp.pl.expert_clusters(sdata)
    name = sdata.attrs["spade"]["sample"]
    assert [ax.get_title(loc="left") for ax in axes[:, 0]] == [f"{name}/a: expert", f"{name}/b: expert"]
    weights = sdata["table"].obsm["spade_expert_weights"]
    for rows, ax in zip((slice(0, 35), slice(35, 70)), axes[:, 1], strict=True):
        np.testing.assert_allclose(spots_of(ax).get_array(), routing_entropy(weights[rows].astype(float)))


def test_spots_without_a_valid_patch_are_open_circles_and_counted():
    centres = grid()
    centres[:2, 0] -= 100
    with pytest.warns(UserWarning, match="2 of 35"):
        sdata = section(centres)
    ((ax, entropy),) = sp.pl.expert_clusters(sdata)
    faces = spots_of(ax).get_facecolors()
    assert len(faces) == 35
    assert (faces[:2, 3] == 0).all()
    assert (faces[2:, 3] == 1).all()
    assert labels_of(ax)[-1] == "no patch (2)"
    assert spots_of(entropy).get_array().mask.tolist() == [True] * 2 + [False] * 33


def test_without_embed_the_clusters_are_drawn_alone(cohort, embedded):
    sp.tl.cluster_experts(cohort, use_rep="X_texture", n_prototypes=4, n_experts=2, key_added="two")
    axes = sp.pl.expert_clusters(cohort, key="two")
    assert axes.shape == (2, 1)
    clusters = cohort[1]["table"].obs["two_cluster"].astype(int)
    assert [to_hex(c) for c in spots_of(axes[1, 0]).get_facecolors()] == palette(2)[clusters].tolist()
    with pytest.raises(KeyError, match=r"'two_expert_weights'.*there: 'spade_expert_weights'.*sp\.tl\.embed"):
        sp.pl.expert_clusters(cohort, key="two", entropy=True)
    del cohort[1]["table"].obsm["spade_expert_weights"]
    with pytest.raises(KeyError, match=r"toy_1: .*other samples have them.*entropy=False"):
        sp.pl.expert_clusters(cohort)


def test_other_columns_colour_the_spots(embedded):
    axes = sp.pl.expert_clusters(embedded, color="domain", entropy=False)
    domain = embedded[0]["table"].obs["domain"]
    colours = [SAFE[code] for code in domain.cat.codes]
    assert [to_hex(c) for c in spots_of(axes[0, 0]).get_facecolors()] == colours
    axes = sp.pl.expert_clusters(embedded, color="cell_density", entropy=False)
    values = [s["table"].obs["cell_density"].to_numpy() for s in embedded]
    for ax, own in zip(axes[:, 0], values, strict=True):
        np.testing.assert_allclose(spots_of(ax).get_array(), own)
        assert spots_of(ax).get_clim() == pytest.approx((np.min(values), np.max(values)))


def test_genes_and_scanpys_arguments_colour_the_left_panel(embedded):
    genes = embedded[0]["table"].var_names
    axes = sp.pl.expert_clusters(
        embedded, color=genes[2], vmin=0.5, vmax="p90", cmap="magma", size=2, alpha_img=0.3, figsize=(9, 5)
    )
    for (left, right), sdata in zip(axes, embedded, strict=True):
        counts = sdata["table"].X.toarray()
        np.testing.assert_allclose(spots_of(left).get_array(), np.log1p(1e4 * counts[:, 2] / counts.sum(1)), rtol=1e-5)
        np.testing.assert_allclose(spots_of(left).get_widths(), spots_of(right).get_widths())
        assert (spots_of(left).cmap.name, spots_of(right).cmap.name) == ("magma", "viridis")
        assert spots_of(left).get_clim()[0] == 0.5
        assert {ax.images[0].get_alpha() for ax in (left, right)} == {0.3}
    plain = sp.pl.expert_clusters(embedded, entropy=False, groups="1", palette=["r", "g", "b"])
    assert spots_of(axes[0, 0]).get_widths()[0] == pytest.approx(2 * spots_of(plain[0, 0]).get_widths()[0])
    assert {to_hex(c, keep_alpha=True) for c in spots_of(plain[0, 0]).get_facecolors()} == {"#008000ff", "#00000000"}
    assert labels_of(plain[0, 0])[-1].startswith("not in groups (")
    with pytest.raises(ValueError, match=r"layer='X': experts are no expression of a gene"):
        sp.pl.expert_clusters(embedded, layer="X")
    with pytest.raises(ValueError, match=r"vmax=3: categories have colours already"):
        sp.pl.expert_clusters(embedded, vmax=3)


def test_cluster_errors_say_what_there_is(embedded):
    with pytest.raises(KeyError, match=r"key='mine': .*'mine_expert'.*there: 'spade_expert'.*cluster_experts"):
        sp.pl.expert_clusters(embedded, key="mine")
    with pytest.raises(KeyError, match=r"color='nothing' is neither a column of obs nor a gene.*obs: .*'domain'"):
        sp.pl.expert_clusters(embedded, color="nothing")
    with pytest.raises(KeyError, match=r"patches_key='squares' is not there; patches: 'patches'.*sp\.pp\.patches"):
        sp.pl.expert_clusters(embedded, patches_key="squares")
