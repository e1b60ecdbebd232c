"""Plots of what experts are about, by what the artists hold."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer

import spade as sp
from spade._samples.experts import palette


@pytest.fixture(autouse=True)
def _close(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("plt.show was called"))
    yield
    plt.close("all")


def shares(n_values=3, n_experts=4, seed=0):
    """A table such as ``tl.expert_composition`` returns; the last value has no interval."""
    rng = np.random.default_rng(seed)
    rows = []
    for v in range(n_values):
        share = rng.dirichlet(np.ones(n_experts))
        for e in range(n_experts):
            log2 = float(np.log2(share[e] * n_experts))
            bounds = (log2 - 0.5, log2 + 0.4) if v < n_values - 1 else (np.nan, np.nan)
            rows.append(
                {
                    "by": "region", "value": f"region {v}", "expert": str(e), "n_value": 100 * (v + 1),
                    "share": share[e], "log2_enrichment": log2, "log2_low": bounds[0], "log2_high": bounds[1],
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def markers(n_experts=3, per_expert=4, seed=0):
    """A table such as ``tl.rank_expert_genes`` returns: gene ``g<e>_<i>`` is rank i + 1 of expert e."""
    rng = np.random.default_rng(seed)
    genes = [f"g{e}_{i}" for e in range(n_experts) for i in range(per_expert)]
    rows = []
    for e in range(n_experts):
        own = [g for g in genes if g.startswith(f"g{e}_")]
        for rank, gene in enumerate([*own, *(g for g in genes if g not in own)], 1):
            change = (3 - 0.1 * rank) if gene in own else float(rng.normal(-0.5, 0.3))
            rows.append(
                {"expert": str(e), "gene": gene, "rank": rank, "log_fold_change": change, "share_in": rng.random()}
            )
    return pd.DataFrame(rows)


# --- composition


def test_bars_are_the_shares_in_the_colours_of_the_experts():
    table = shares()
    left, right = sp.pl.expert_composition(table)
    bars = [c for c in left.containers if isinstance(c, BarContainer)]
    assert len(bars) == 4
    for expert, container in enumerate(bars):
        own = table[table["expert"] == str(expert)]
        np.testing.assert_allclose([bar.get_width() for bar in container], own["share"])
        assert {to_hex(bar.get_facecolor()) for bar in container} == {palette(4)[expert]}
    ends = [bar.get_x() + bar.get_width() for bar in bars[-1]]
    np.testing.assert_allclose(ends, 1)
    assert [t.get_text() for t in left.get_yticklabels()] == [f"region {v}\n{100 * (v + 1)} spots" for v in range(3)]
    assert left.get_title(loc="left") == "experts by region"
    assert [t.get_text() for t in right.get_legend().get_texts()] == list("0123")
    assert left.get_ylim() == right.get_ylim()


def test_dots_are_the_enrichment_with_intervals_where_there_are_any():
    table = shares()
    _, right = sp.pl.expert_composition(table)
    for expert in range(4):
        own = table[table["expert"] == str(expert)]
        (dots,) = [line for line in right.lines if line.get_label() == f"expert {expert}"]
        np.testing.assert_allclose(dots.get_xdata(), own["log2_enrichment"])
        np.testing.assert_array_equal(np.round(dots.get_ydata()), [0, 1, 2])
        assert dots.get_markerfacecolor() == palette(4)[expert]
        segments = right.collections[expert].get_segments()
        known = np.array([one for one in segments if len(one) == 2 and np.isfinite(one).all()])
        np.testing.assert_allclose(known[:, :, 0], own[["log2_low", "log2_high"]].iloc[:2])
    assert "95 % interval" in right.get_xlabel()
    table[["log2_low", "log2_high"]] = np.nan
    assert "interval" not in sp.pl.expert_composition(table)[1].get_xlabel()


def test_experts_keep_their_colour_where_others_are_absent_and_take_those_given():
    table = shares().query("expert in ('1', '3')")
    left, _ = sp.pl.expert_composition(table)
    assert [to_hex(c[0].get_facecolor()) for c in left.containers] == palette(4)[[1, 3]].tolist()
    left, _ = sp.pl.expert_composition(table, colors={"1": "#112233", "3": "#445566", "9": "red"})
    assert [to_hex(c[0].get_facecolor()) for c in left.containers] == ["#112233", "#445566"]
    with pytest.raises(ValueError, match="colors: no colour for experts 3"):
        sp.pl.expert_composition(table, colors={"1": "red"})


def test_composition_of_a_trained_model_is_drawn(cohort, model):
    sp.tl.embed(cohort, model)
    axes = sp.pl.expert_composition(sp.tl.expert_composition(cohort, by="domain", n_boot=50))
    domains = cohort[0]["table"].obs["domain"].cat.categories
    assert [t.get_text().split("\n")[0] for t in axes[0].get_yticklabels()] == list(domains)


# --- genes


def dots_of(ax):
    (dots,) = [c for c in ax.collections if isinstance(c, PathCollection)]
    return dots


@pytest.mark.parametrize("scale", [False, True])
def test_dots_are_share_and_fold_change_of_every_expert_and_gene(scale):
    table = markers()
    ax = sp.pl.expert_genes(table, n_genes=2, scale=scale)
    genes = [f"g{e}_{i}" for e in range(3) for i in range(2)]
    assert [t.get_text() for t in ax.get_xticklabels()] == genes
    assert [t.get_text() for t in ax.get_yticklabels()] == list("012")
    dots = dots_of(ax)
    wide = table.pivot(index="expert", columns="gene", values="log_fold_change")[genes]
    if scale:
        wide = wide / wide.abs().mean()
    sizes = table.pivot(index="expert", columns="gene", values="share_in")[genes]
    assert dots.get_offsets().tolist() == [[g, e] for e in range(3) for g in range(6)]
    np.testing.assert_allclose(dots.get_array(), wide.to_numpy().ravel())
    np.testing.assert_allclose(
        dots.get_sizes() / dots.get_sizes().max(), (sizes / sizes.max(axis=None)).to_numpy().ravel()
    )
    low, high = dots.get_clim()
    assert low == -high
    assert ("mean size" in dots.colorbar.ax.get_ylabel()) == scale
    strips = [to_hex(p.get_facecolor()) for p in ax.patches]
    assert strips == palette(3).tolist()


def test_a_gene_of_two_experts_stands_once_where_its_rank_is_best():
    table = markers(2, 3)
    table.loc[(table["expert"] == "1") & (table["gene"] == "g0_1"), "rank"] = 1
    table.loc[(table["expert"] == "1") & (table["gene"] == "g1_0"), "rank"] = 5
    ax = sp.pl.expert_genes(table, n_genes=2)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["g0_0", "g0_1", "g1_1"]
    np.testing.assert_allclose([strip.get_width() for strip in ax.patches], [0.9, 1.9])
    assert len(dots_of(ax).get_offsets()) == 6


def test_pairs_that_the_table_lacks_are_left_blank():
    table = markers().query("rank <= 2")
    assert len(dots_of(sp.pl.expert_genes(table, n_genes=2)).get_offsets()) == 6


def test_genes_of_a_trained_model_are_drawn_from_the_store(cohort, model, tmp_path):
    from spatialdata import read_zarr

    sp.tl.embed(cohort, model)
    sp.tl.rank_expert_genes(cohort[0], min_spots=2)
    sp.io.write(cohort[0], tmp_path / "a.zarr")
    table = read_zarr(tmp_path / "a.zarr")["table"].uns["rank_expert_genes"]
    ax = sp.pl.expert_genes(table)
    assert 0 < len(ax.get_xticklabels()) <= 15


# --- what both share


@pytest.mark.parametrize(("plot", "table", "n"), [("expert_composition", shares, 2), ("expert_genes", markers, 1)])
def test_axes_are_used_and_shown_only_if_asked(plot, table, n, monkeypatch):
    call = getattr(sp.pl, plot)
    figure, given = plt.subplots(1, n, squeeze=False)
    found = call(table(), ax=given[0] if n > 1 else given[0, 0])
    assert np.ravel(found).tolist() == given.ravel().tolist()
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()
    _, wrong = plt.subplots(1, n + 1)
    with pytest.raises(ValueError, match=rf"ax: got {n + 1} Axes for {n} panels"):
        call(table(), ax=wrong)
    with pytest.raises(TypeError, match="ax: got Figure; expected matplotlib Axes"):
        call(table(), ax=figure)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    call(table(), show=True)
    assert shown == [True]


@pytest.mark.parametrize("plot", ["expert_composition", "expert_genes"])
def test_plots_say_which_table_they_need(plot):
    call = getattr(sp.pl, plot)
    with pytest.raises(TypeError, match=r"table: got list; expected what sp\.tl\."):
        call([1, 2])
    with pytest.raises(ValueError, match=r"table lacks '(value|gene)'"):
        call(pd.DataFrame({"expert": ["0"]}))
    full = shares() if plot == "expert_composition" else markers()
    with pytest.raises(ValueError, match="table is empty"):
        call(full.iloc[:0])
    with pytest.raises(ValueError, match=r"occur more than once"):
        call(pd.concat([full, full]))


def test_nothing_lies_outside_of_the_figure():
    for axes in (
        sp.pl.expert_composition(shares(6, 16)),
        sp.pl.expert_composition(shares(2, 3)),
        sp.pl.expert_genes(markers(16, 5)),
        sp.pl.expert_genes(markers(2, 2), n_genes=1),
    ):
        figure = np.ravel(axes)[0].figure
        figure.canvas.draw()
        box = figure.get_tightbbox().padded(0)
        width, height = figure.get_size_inches()
        assert box.x0 > -0.01
        assert box.y0 > -0.01
        assert box.x1 < width + 0.01
        assert box.y1 < height + 0.01
        for ax in np.ravel(axes):
            legend = ax.get_legend()
            if legend is not None:
                assert legend.get_window_extent().x0 >= ax.get_window_extent().x1
