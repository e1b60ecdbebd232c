"""Plots, by what the artists hold: on a trained toy cohort, and on a small section where every pixel is known."""

from __future__ import annotations

import logging

import geopandas as gpd
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from helpers.sections import through_csv
from matplotlib.collections import EllipseCollection, PathCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.patches import Circle
from scipy.sparse import csr_matrix
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel

import spade as sp
from spade._samples.expert_colours import palette
from spade._samples.images import image_levels
from spade.core.experts.routing import routing_entropy
from spade.pl._draw import tissue as _tissue
from spade.pl._draw.colours import SAFE
from spade.pl._draw.tissue import nice_length, read_region

MPP = 2.0
RED = (200, 30, 40)


@pytest.fixture(autouse=True)
def _close(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("plt.show was called"))
    yield
    plt.close("all")


@pytest.fixture
def embedded(cohort, model):
    sp.tl.embed(cohort, model)
    return cohort


def pixels(height=240, width=300, seed=0):
    """A grey, noisy image whose upper left corner is red."""
    image = np.random.default_rng(seed).integers(100, 140, (3, height, width)).astype(np.uint8)
    image[:, :60, :50] = np.array(RED, dtype=np.uint8)[:, None, None]
    return image


def grid(n_columns=7, n_rows=5):
    """Spot centres in pixels, 40 apart."""
    x, y = np.meshgrid(30 + 40 * np.arange(n_columns), 30 + 40 * np.arange(n_rows))
    return np.column_stack([x.ravel(), y.ravel()]).astype(float)


def section(centres=None, regions=("spots",), scale_factors=(2,), genes=0):
    """Sections of spots 20 px wide on images of 2 µm/px, with two experts by hand; in ``"b"`` spots are named alike."""
    centres = grid() if centres is None else centres
    images, shapes, tables = {}, {}, []
    ids = pd.Index([f"s{i}" for i in range(len(centres))])
    for seed, region in enumerate(regions):
        image = Image2DModel.parse(
            pixels(seed=seed), dims=("c", "y", "x"), c_coords=list("rgb"), scale_factors=list(scale_factors) or None
        )
        images[f"{region}_image"] = image
        circles = gpd.GeoDataFrame(
            {"radius": np.full(len(ids), 10.0)}, geometry=gpd.points_from_xy(*centres.T), index=ids
        )
        shapes[region] = ShapesModel.parse(circles)
        counts = np.random.default_rng(seed).poisson(3, (len(ids), genes)).astype(np.float32)
        obs = pd.DataFrame({"region": region, "spot_id": ids}, index=[f"{region}_{i}" for i in ids])
        tables.append((counts, obs))
    obs = pd.concat([obs for _, obs in tables])
    obs["region"] = obs["region"].astype("category")
    table = AnnData(
        csr_matrix(np.vstack([counts for counts, _ in tables])),
        obs=obs,
        var=pd.DataFrame(index=[f"G{g}" for g in range(genes)]),
    )
    table = TableModel.parse(table, region=list(regions), region_key="region", instance_key="spot_id")
    sdata = SpatialData(images=images, shapes=shapes, tables={"table": table})
    sp.pp.patches(sdata, image_key={r: f"{r}_image" for r in regions}, mpp=MPP, size_um=40.0, size_px=20)
    weight = np.linspace(0.02, 0.98, table.n_obs).astype(np.float32)
    return with_experts(sdata, np.column_stack([weight, 1 - weight]))


def with_experts(sdata, weights):
    """Write what ``embed`` would; rows that are not valid get NaN."""
    table = sdata["table"]
    weights = np.where(table.obs["spade_valid"].to_numpy()[:, None], weights, np.nan).astype(np.float32)
    table.obsm["spade_expert_weights"] = weights
    names = np.array([str(e) for e in range(weights.shape[1])])
    best = names[np.argmax(np.nan_to_num(weights, nan=-1), axis=1)].astype(object)
    best[np.isnan(weights).any(1)] = None
    table.obs["spade_expert"] = pd.Categorical(best, categories=names)
    table.uns["spade_expert_colors"] = palette(len(names))
    return sdata


def spots_of(ax):
    (spots,) = [c for c in ax.collections if isinstance(c, EllipseCollection)]
    return spots


def labels_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def shown_at(ax, x, y):
    """RGB of the rendered figure at a point of the data."""
    ax.figure.canvas.draw()
    canvas = np.asarray(ax.figure.canvas.buffer_rgba())
    column, row = ax.transData.transform((x, y))
    return canvas[canvas.shape[0] - 1 - int(row), int(column), :3].astype(int)


# --- the tissue -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale_factors", [(), (2, 2)])
def test_reading_a_region_averages_whole_blocks_of_the_right_level(scale_factors, monkeypatch):
    monkeypatch.setattr(_tissue, "BAND", 7)
    element = Image2DModel.parse(
        pixels(), dims=("c", "y", "x"), c_coords=list("rgb"), scale_factors=list(scale_factors) or None
    )
    levels = image_levels(element)
    found, covered = read_region(levels, np.array([40.0, 20.0, 240.0, 180.0]), max_px=50)
    assert covered.tolist() == [40, 20, 240, 180]
    assert found.shape == (40, 50, 3)
    expected = pixels()[:, 20:180, 40:240].reshape(3, 40, 4, 50, 4).mean((2, 4)).transpose(1, 2, 0)
    assert np.abs(found - expected).max() < 2  # levels of a pyramid are rounded down themselves


def test_reading_a_region_at_full_resolution_is_exact_and_stops_at_the_border():
    element = Image2DModel.parse(pixels(), dims=("c", "y", "x"), c_coords=list("rgb"), scale_factors=[2])
    found, covered = read_region(image_levels(element), np.array([-50.0, 200.0, 30.0, 900.0]), max_px=80)
    assert covered.tolist() == [0, 200, 30, 240]
    np.testing.assert_array_equal(found, pixels()[:, 200:240, :30].transpose(1, 2, 0))
    outside, _ = read_region(image_levels(element), np.array([-50.0, -50.0, -10.0, -10.0]))
    assert outside.size == 0


def test_lengths_of_scale_bars_are_round():
    assert [nice_length(x) for x in (0.99, 1, 4.9, 5, 199, 2300)] == pytest.approx([0.5, 1, 2, 5, 100, 2000])


# --- expert_clusters --------------------------------------------------------------------------------------------


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
    assert [ax.get_title(loc="left") for ax in axes[:, 0]] == ["sample/a: expert", "sample/b: expert"]
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


def test_cluster_errors_say_what_there_is(embedded):
    with pytest.raises(KeyError, match=r"key='mine': .*'mine_expert'.*there: 'spade_expert'.*cluster_experts"):
        sp.pl.expert_clusters(embedded, key="mine")
    with pytest.raises(KeyError, match=r"color='nothing' is not in obs; columns: .*'domain'"):
        sp.pl.expert_clusters(embedded, color="nothing")
    with pytest.raises(KeyError, match=r"patches_key='squares' is not there; patches: 'patches'.*sp\.pp\.patches"):
        sp.pl.expert_clusters(embedded, patches_key="squares")


# --- patches ----------------------------------------------------------------------------------------------------


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
    assert overview.get_title(loc="left") == "sample: 40 µm patches\n20 px at 2 µm/px (image 2 µm/px)"
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
        KeyError, match=r"spots: 'x', 'y' not found; spots are named like 's0', 's1'.*sample/a, sample/b"
    ):
        sp.pl.patches(sdata, spots=["s1", "x", "y"])
    with pytest.raises(ValueError, match="n=0: expected a whole number of at least 1"):
        sp.pl.patches(sdata, n=0)


# --- expert_gallery ---------------------------------------------------------------------------------------------


def test_the_gallery_shows_the_largest_weights_of_every_section():
    sdata = section(regions=("a", "b"))
    weight = np.concatenate([np.linspace(0.6, 0.99, 35), np.linspace(0.55, 0.7, 35)])
    with_experts(sdata, np.column_stack([weight, 1 - weight]))
    axes = sp.pl.expert_gallery(sdata, n_patches=4)
    assert axes.shape == (1, 5)
    below = [ax.get_xlabel() for ax in axes[0, :-1]]
    assert below == ["sample/a\nw = 0.99", "sample/a\nw = 0.98", "sample/b\nw = 0.70", "sample/b\nw = 0.70"]
    for ax, seed, spot in zip(axes[0], (0, 0, 1, 1), (34, 33, 34, 33), strict=False):
        x, y = grid()[spot].astype(int)
        expected = pixels(seed=seed)[:, y - 10 : y + 10, x - 10 : x + 10].transpose(1, 2, 0)
        np.testing.assert_array_equal(ax.images[0].get_array(), expected)
        assert to_hex(ax.spines["left"].get_edgecolor()) == palette(1)[0]
    assert axes[0, 0].get_ylabel() == "expert 0\n70 spots"
    assert axes[0, -1].texts[0].get_text() == "no expression"


def test_gallery_genes_are_those_that_differ(embedded, model):
    names = [f"GENE{g:04d}" for g in range(1, 201)]
    axes = sp.pl.expert_gallery(embedded, n_patches=2, n_genes=5)
    logs, experts = [], []
    for sdata in embedded:
        counts = sdata["table"].X.toarray()
        logs.append(np.log1p(1e4 * counts / counts.sum(1, keepdims=True)))
        experts.append(sdata["table"].obs["spade_expert"].astype(str))
    logs, experts = np.concatenate(logs), np.concatenate(experts)
    for row, expert in zip(axes, sorted(set(experts)), strict=True):
        own, rest = logs[experts == expert], logs[experts != expert]
        difference = own.mean(0) - rest.mean(0)
        t = difference / np.sqrt(own.var(0, ddof=1) / len(own) + rest.var(0, ddof=1) / len(rest))
        best = sorted(np.argsort(-t)[:5], key=lambda g: -difference[g])
        assert [text.get_text() for text in row[-1].get_yticklabels()] == [names[g] for g in best]
        widths = [bar.get_width() for bar in row[-1].patches]
        np.testing.assert_allclose(widths, difference[best], rtol=1e-4)
        assert to_hex(row[-1].patches[0].get_facecolor()) == palette(3)[int(expert)]
    assert len({ax.get_xlim() for ax in axes[:, -1]}) == 1


def test_the_gallery_shows_the_experts_asked_for(embedded):
    present = sorted(set(embedded[0]["table"].obs["spade_expert"].astype(str)))
    axes = sp.pl.expert_gallery(embedded, experts=[int(present[0])], n_patches=1)
    assert axes.shape == (1, 2)
    with pytest.raises(ValueError, match=rf"experts: '7': no spot has it.*experts with spots: '{present[0]}'"):
        sp.pl.expert_gallery(embedded, experts=["7", present[0]])
    with pytest.raises(ValueError, match="n_genes=0: expected"):
        sp.pl.expert_gallery(embedded, n_genes=0)


def test_the_gallery_needs_routing_weights(cohort):
    sp.tl.cluster_experts(cohort, use_rep="X_texture", n_prototypes=4, n_experts=2)
    with pytest.raises(
        KeyError, match=r"toy_0: key='spade': .*obsm\['spade_expert_weights'\].*there: none.*sp\.tl\.embed"
    ):
        sp.pl.expert_gallery(cohort)


def test_few_patches_and_few_spots_leave_panels_empty():
    sdata = section(grid(3, 1), genes=5)
    with_experts(sdata, np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]))
    axes = sp.pl.expert_gallery(sdata, n_patches=4)
    assert [[ax.get_visible() for ax in row[:-1]] for row in axes] == [[True] * 2 + [False] * 2, [True] + [False] * 3]
    assert [ax.texts[0].get_text() for ax in axes[:, -1]] == ["too few spots\nto compare"] * 2


# --- training ---------------------------------------------------------------------------------------------------


def test_training_lines_are_the_history(model):
    ax = sp.pl.training(model)
    lines = {line.get_label(): line for line in ax.lines}
    for expert, own in model.history.groupby("expert"):
        line = lines[f"expert {expert}, train"]
        np.testing.assert_array_equal(line.get_xydata(), own[["epoch", "train_loss"]])
        assert line.get_color() == palette(3)[int(expert)]
    assert len(lines) == model.history["expert"].nunique()
    sizes = model.history.drop_duplicates("expert")
    assert labels_of(ax) == [f"{e} ({n})" for e, n in zip(sizes["expert"], sizes["n_spots"], strict=True)]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "training loss")


def test_validation_is_dashed_and_its_best_epoch_marked():
    history = pd.DataFrame(
        {
            "expert": ["0"] * 4 + ["2"] * 4,
            "epoch": [0, 1, 2, 3] * 2,
            "train_loss": [4.0, 3, 2, 1] * 2,
            "val_loss": [5.0, 4, 4.5, 6] + [np.nan] * 4,
        }
    )
    ax = sp.pl.training(history)
    lines = {line.get_label(): line for line in ax.lines}
    assert sorted(lines) == ["expert 0, best epoch", "expert 0, train", "expert 0, val", "expert 2, train"]
    assert lines["expert 0, best epoch"].get_xydata().tolist() == [[1, 4]]
    assert lines["expert 0, val"].is_dashed()
    assert not lines["expert 0, train"].is_dashed()
    assert lines["expert 2, train"].get_color() == palette(3)[2]
    assert labels_of(ax) == ["0", "2", "train", "validation", "best epoch"]


def test_training_errors(model):
    with pytest.raises(TypeError, match="got str; expected a trained model or its history"):
        sp.pl.training("model")
    with pytest.raises(ValueError, match=r"history is empty.*sp\.tl\.train_spade"):
        sp.pl.training(pd.DataFrame())
    with pytest.raises(ValueError, match=r"lacks \['val_loss'\]; columns: \['expert'"):
        sp.pl.training(model.history.drop(columns="val_loss"))


# --- embedding --------------------------------------------------------------------------------------------------


def points_of(ax):
    (points,) = [c for c in ax.collections if isinstance(c, PathCollection)]
    return points


def test_embedding_panels_are_expert_domain_and_sample(embedded):
    before = [list(s["table"].obsm) for s in embedded]
    axes = sp.pl.embedding(embedded)
    assert [ax.get_title(loc="left") for ax in axes] == ["expert", "domain", "sample"]
    assert [list(s["table"].obsm) for s in embedded] == before
    for ax in axes:
        assert len(points_of(ax).get_offsets()) == 160
    assert labels_of(axes[2]) == ["toy_0 (80)", "toy_1 (80)"]
    again = sp.pl.embedding(embedded, color="sample")
    np.testing.assert_array_equal(points_of(again).get_offsets(), points_of(axes[2]).get_offsets())


def test_a_basis_of_width_two_is_drawn_as_it_is_in_the_right_colours(cohort, caplog):
    for i, sdata in enumerate(cohort):
        xy = np.random.default_rng(i).normal(size=(80, 2)).astype(np.float32)
        xy[:3] = np.nan
        sdata["table"].obsm["X_two"] = xy
    cohort[1]["table"].obs["domain"] = cohort[1]["table"].obs["domain"].where(np.arange(80) != 5)
    with caplog.at_level(logging.INFO, logger="spade"):
        axes = sp.pl.embedding(cohort, basis="X_two", color=["domain", "inflammation"])
    assert "6 of 160 rows have NaN in obsm['X_two']" in caplog.text
    assert axes[0].get_title(loc="left") == "domain (6 rows with NaN not shown)"
    assert axes[0].get_xlabel() == "X_two 1"
    expected = {}
    for sdata in cohort:
        table = sdata["table"]
        for xy, code, value in zip(
            table.obsm["X_two"][3:], table.obs["domain"].cat.codes[3:], table.obs["inflammation"][3:], strict=True
        ):
            expected[tuple(xy.tolist())] = (to_rgba(SAFE[code]) if code >= 0 else to_rgba("#d0d0d0"), value)
    xy = [tuple(np.float32(p).tolist()) for p in points_of(axes[0]).get_offsets()]
    assert sorted(xy) == sorted(expected)
    assert [tuple(c) for c in points_of(axes[0]).get_facecolors()] == [expected[p][0] for p in xy]
    np.testing.assert_allclose(points_of(axes[1]).get_array(), [expected[p][1] for p in xy])
    assert points_of(axes[1]).colorbar.ax.get_ylabel() == "inflammation"
    assert labels_of(axes[0])[-1] == "missing (1)"


def test_colours_of_uns_are_kept(cohort):
    table = cohort[0]["table"]
    table.obsm["X_two"] = np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32)
    table.uns["organ_colors"] = ["#112233", "#445566"]
    ax = sp.pl.embedding(cohort[0], basis="X_two", color="organ")
    assert {to_hex(c) for c in points_of(ax).get_facecolors()} == {"#112233"}


def test_embedding_errors(embedded):
    with pytest.raises(KeyError, match=r"toy_0: basis='X_no' is not in obsm; there is .*'X_spade'.*sp\.tl\.embed"):
        sp.pl.embedding(embedded, basis="X_no")
    with pytest.raises(KeyError, match=r"color='no' is not in obs; columns: .*'domain'"):
        sp.pl.embedding(embedded, color=["domain", "no"])
    with pytest.raises(KeyError, match=r"key='mine': .*there: 'spade_expert'"):
        sp.pl.embedding(embedded, key="mine", color="expert")
    with pytest.raises(ValueError, match=r"color: got an empty list"):
        sp.pl.embedding(embedded, color=[])
    embedded[0]["table"].obsm["X_spade"] = np.full((80, 256), np.nan, dtype=np.float32)
    with pytest.raises(ValueError, match=r"basis='X_spade' has 0 rows without NaN of 80; at least 10"):
        sp.pl.embedding(embedded[0])
    embedded[0]["table"].obsm["X_spade"] = np.zeros((80, 3), dtype=np.float32)
    with pytest.raises(ValueError, match=r"differs in width between samples: \[3, 256\]"):
        sp.pl.embedding(embedded)


# --- what all share ---------------------------------------------------------------------------------------------


def calls(samples, model):
    return {
        "patches": (lambda **kw: sp.pl.patches(samples, n=2, **kw), 6),
        "expert_clusters": (lambda **kw: sp.pl.expert_clusters(samples, **kw), 4),
        "expert_gallery": (lambda **kw: sp.pl.expert_gallery(samples, experts=one(samples), n_patches=2, **kw), 3),
        "training": (lambda **kw: sp.pl.training(model, **kw), 1),
        "embedding": (lambda **kw: sp.pl.embedding(samples, color=["organ", "domain"], **kw), 2),
    }


def one(samples):
    return [samples[0]["table"].obs["spade_expert"].astype(str).iloc[0]]


@pytest.mark.parametrize("name", ["patches", "expert_clusters", "expert_gallery", "training", "embedding"])
def test_axes_are_used_and_shown_only_if_asked(name, embedded, model, monkeypatch):
    if name == "embedding":
        for sdata in embedded:
            sdata["table"].obsm["X_spade"] = sdata["table"].obsm["X_spade"][:, :2]
    call, n = calls(embedded, model)[name]
    figure, given = plt.subplots(1, n, squeeze=False)
    found = call(ax=given if n > 1 else given[0, 0])
    assert np.ravel(found).tolist() == given.ravel().tolist()
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()
    _, wrong = plt.subplots(1, n + 1)
    with pytest.raises(ValueError, match=rf"ax: got {n + 1} Axes for {n} panels: .*leave ax= out"):
        call(ax=wrong)
    with pytest.raises(TypeError, match="ax: got Figure; expected matplotlib Axes, one per panel"):
        call(ax=figure)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    call(show=True)
    assert shown == [True]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_paths_are_read_and_left_as_they_are(embedded, tmp_path):
    path = tmp_path / "toy.zarr"
    sp.io.write(embedded[0], path)
    files = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    axes = [
        sp.pl.patches(path, n=1),
        sp.pl.expert_clusters([path]),
        sp.pl.expert_gallery(iter([str(path)]), n_patches=1),
    ]
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == files
    np.testing.assert_allclose(
        spots_of(axes[1][0, 0]).get_offsets(), spots_of(sp.pl.expert_clusters(embedded[0])[0, 0]).get_offsets()
    )
    with pytest.raises(FileNotFoundError, match="there is no store"):
        sp.pl.patches(tmp_path / "none.zarr")


def test_a_sample_without_expression_takes_part_in_every_plot(embedded):
    table = embedded[1]["table"]
    bare = AnnData(csr_matrix((table.n_obs, 0), dtype=np.float32), obs=table.obs, obsm=dict(table.obsm), uns=table.uns)
    embedded[1].tables["table"] = bare
    assert sp.pl.expert_clusters(embedded).shape == (2, 2)
    gallery = sp.pl.expert_gallery(embedded, n_patches=4)
    shown = "".join(ax.get_xlabel() for ax in gallery[:, :-1].ravel())
    assert "toy_0" in shown
    assert "toy_1" in shown
    assert all(ax.patches for ax in gallery[:, -1])
    assert all(ax.texts[0].get_text() == "no expression" for ax in sp.pl.expert_gallery(embedded[1])[:, -1])


def test_legends_lie_outside_of_the_panels_and_inside_of_the_figure(embedded):
    for axes in (
        sp.pl.expert_clusters(embedded)[:, 0],
        sp.pl.training(section_history()),
    ):
        for ax in np.ravel(axes):
            ax.figure.canvas.draw()
            legend, panel = ax.get_legend().get_window_extent(), ax.get_window_extent()
            assert legend.x0 >= panel.x1
            assert legend.x1 <= ax.figure.bbox.x1


def section_history():
    epochs = np.arange(3)
    return pd.concat(
        [
            pd.DataFrame(
                {"expert": str(e), "epoch": epochs, "n_spots": 99, "train_loss": 3.0 - epochs, "val_loss": 4.0 - epochs}
            )
            for e in range(16)
        ]
    )


def test_type_sizes_do_not_follow_the_defaults(embedded):
    with mpl.rc_context({"font.size": 30, "axes.titlesize": 40}):
        ((ax, entropy), _) = sp.pl.expert_clusters(embedded)
    texts = [*ax.get_legend().get_texts(), spots_of(entropy).colorbar.ax.yaxis.label, *ax.texts]
    assert {text.get_fontsize() for text in texts} == {8}
    assert {t.get_fontsize() for t in ax.findobj(mpl.text.Text) if "expert" in t.get_text()} == {8, 9}


def test_experts_are_known_by_number_where_a_subset_lacks_some(embedded, model):
    """A subset drops unused categories; patches, weights and colours must still be those of the same expert."""
    table = embedded[0]["table"]
    experts = table.obs["spade_expert"].astype(str).to_numpy()
    kept = np.flatnonzero(experts != "1")
    assert set(experts[kept]) == {"0", "2"}
    embedded[0].tables["table"] = table[kept].copy()
    assert list(embedded[0]["table"].obs["spade_expert"].cat.categories) == ["0", "2"]
    axes = sp.pl.expert_gallery(embedded[0], n_patches=1)
    for row, expert in zip(axes, (0, 2), strict=True):
        weight = table.obsm["spade_expert_weights"][kept][experts[kept] == str(expert), expert].max()
        assert row[0].get_xlabel().endswith(f"w = {weight:.2f}")
        assert to_hex(row[0].spines["left"].get_edgecolor()) == palette(model.n_experts)[expert]
    del embedded[0]["table"].uns["spade_expert_colors"]
    ((panel, _),) = sp.pl.expert_clusters(embedded[0])
    faces = {to_hex(face) for face in panel.collections[0].get_facecolors()}
    assert faces == {to_hex(palette(3)[expert]) for expert in (0, 2)}


def test_dates_are_categories(cohort):
    cohort[0]["table"].obs["day"] = pd.to_datetime(["2020-01-01", "2020-02-01"] * 40)
    for plot in (sp.pl.expert_clusters, sp.pl.embedding):
        options = {"basis": "X_texture"} if plot is sp.pl.embedding else {"entropy": False}
        plot(cohort[0], color="day", **options)


def test_squares_within_clusters_are_drawn_for_every_number(cohort):
    axes = sp.pl.choose_n_experts(cohort, use_rep="X_texture", groupby="organ", counts=(2, 4, 300), n_prototypes=3)
    left, right = axes
    organs = [line.get_label() for line in left.lines]
    assert organs == sorted({organ for sample in cohort for organ in sample["table"].obs["organ"]})
    for line in left.lines:
        assert line.get_xdata().tolist() == [1, 2, 4]  # 300 clusters of 80 spots there are not
    assert right.lines[0].get_xdata().tolist() == [1, 2, 4]
    for line in (*left.lines, *right.lines):
        shares = line.get_ydata()
        assert shares[0] == pytest.approx(1, abs=1e-4)
        assert (np.diff(shares) < 0).all()
    assert right.get_title(loc="left") == "Stage 2: 6 prototypes"


def test_planted_clusters_are_seen_as_a_bend():
    samples = [section(genes=3)]
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0, 0], [20, 0, 0], [0, 20, 0]])
    n = samples[0]["table"].n_obs
    samples[0]["table"].obsm["X_f"] = (centres[np.arange(n) % 3] + rng.normal(size=(n, 3))).astype(np.float32)
    left, _ = sp.pl.choose_n_experts(samples, use_rep="X_f", counts=range(1, 6), n_prototypes=4, feature_scaling="none")
    shares = left.lines[0].get_ydata()
    assert shares[1] > 0.2
    assert shares[2] < 0.05
    assert shares[2] - shares[4] < 0.03


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"use_rep": "X_uni"}, KeyError, "use_rep='X_uni' is not in obsm"),
        ({"groupby": "donor"}, KeyError, "groupby='donor' is not in obs"),
        ({"counts": (2, 0)}, ValueError, "counts=0: expected a whole number of at least 1"),
        ({"n_prototypes": 1.5}, ValueError, r"n_prototypes=1\.5: expected a whole number"),
        ({"feature_scaling": "max"}, ValueError, "feature_scaling='max'"),
        ({"ax": plt.figure().subplots()}, ValueError, "got 1 Axes for 2 panels"),
    ],
)
def test_choosing_says_what_it_needs(cohort, options, error, said):
    with pytest.raises(error, match=said):
        sp.pl.choose_n_experts(cohort, **{"use_rep": "X_texture", **options})


def test_a_search_from_a_file_is_drawn_alike(cohort, model):
    found = sp.tl.retrieve(list(model.genes.names[:3]), cohort, model, k=None)
    drawn, again = (sp.pl.retrieval(table, cohort) for table in (found, through_csv(found)))
    assert drawn.shape == again.shape == (2,)
    for one, other in zip(drawn, again, strict=True):
        np.testing.assert_allclose(one.collections[0].get_array(), other.collections[0].get_array())
