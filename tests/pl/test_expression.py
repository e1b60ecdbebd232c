"""Plots of predicted expression, by what the artists hold."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import fresh
from matplotlib.collections import EllipseCollection, LineCollection

import spade as sp
from spade.core.expression.normalise import log_normalise


@pytest.fixture(autouse=True)
def _close(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("plt.show was called"))
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def _predicted(_cohort):
    samples = [fresh(one) for one in _cohort]
    genes = list(sp.pp.select_genes(samples, n_top_genes=10).names)
    sp.tl.predict_expression(samples[1], reference=samples[0], genes=genes, method="ridge", use_rep="X_texture")
    return samples[1], genes


@pytest.fixture
def predicted(_predicted):
    return fresh(_predicted[0]), _predicted[1]


def spots(ax):
    return next(one for one in ax.collections if isinstance(one, EllipseCollection))


def heading(ax):
    return ax.get_title(loc="left")


def test_measured_stands_beside_predicted(predicted):
    sample, genes = predicted
    axes = sp.pl.expression(sample, genes[:2], deviation=True)
    assert axes.shape == (2, 3)
    table = sample["table"]
    for i, gene in enumerate(genes[:2]):
        truth = log_normalise(table.X.tocsr())[:, table.var_names.get_indexer([gene])].toarray().ravel()
        np.testing.assert_allclose(spots(axes[i, 0]).get_array(), truth, rtol=1e-6)
        np.testing.assert_allclose(spots(axes[i, 1]).get_array(), table.obsm["X_predicted"][:, i], rtol=1e-6)
        np.testing.assert_allclose(spots(axes[i, 2]).get_array(), table.obsm["X_predicted_deviation"][:, i], rtol=1e-6)
        r = np.corrcoef(truth, table.obsm["X_predicted"][:, i])[0, 1]
        assert heading(axes[i, 0]) == f"toy_1: {gene}, measured"
        assert heading(axes[i, 1]) == f"{gene}, predicted, r = {r:.2f}"
        assert spots(axes[i, 2]).norm.vmin == 0


def test_both_panels_can_be_on_one_scale(predicted):
    sample, genes = predicted
    figure = sp.pl.expression(
        sample, genes[0], deviation=True, vmin=0, vmax=3, cmap="magma", size=0.5, alpha_img=0.8, figsize=(9, 3),
        return_fig=True,
    )  # fmt: skip
    measured, guess, spread = figure.axes[:3]
    assert [spots(ax).get_clim() for ax in (measured, guess)] == [(0, 3)] * 2
    assert [spots(ax).cmap.name for ax in (measured, guess, spread)] == ["magma", "magma", "magma_r"]
    ((usual, *_),) = sp.pl.expression(sample, genes[0])
    assert spots(measured).get_widths()[0] == pytest.approx(spots(usual).get_widths()[0] / 2)
    assert {ax.images[0].get_alpha() for ax in (measured, guess, spread)} == {0.8}
    assert figure.get_size_inches().tolist() == [9, 3]


def test_one_gene_on_given_axes(predicted):
    sample, genes = predicted
    _, given = plt.subplots(1, 2)
    axes = sp.pl.expression(sample, genes[0], ax=given)
    assert axes[0, 0] is given[0]
    with pytest.raises(ValueError, match=r"got 1 Axes for 2 panels: 1 row × \(measured, predicted\)"):
        sp.pl.expression(sample, genes[0], ax=given[0])


def test_without_measurement_there_is_one_panel(predicted):
    sample, genes = predicted
    sample.tables["table"] = sample["table"][:, :0].copy()
    axes = sp.pl.expression(sample, genes[0])
    assert axes.shape == (1, 1)
    assert heading(axes[0, 0]) == f"{genes[0]}, predicted"


def test_spots_without_a_value_are_not_coloured(predicted):
    sample, genes = predicted
    values = sample["table"].obsm["X_predicted"].copy()
    values[[2, 5]] = np.nan
    sample["table"].obsm["X_predicted"] = values
    axes = sp.pl.expression(sample, genes[0])
    assert np.flatnonzero(spots(axes[0, 1]).get_array().mask).tolist() == [2, 5]
    values[:] = np.nan
    sample["table"].obsm["X_predicted"] = values
    assert heading(sp.pl.expression(sample, genes[0])[0, 1]) == f"{genes[0]}, predicted: none"


def test_a_gene_that_does_not_vary(predicted):
    sample, genes = predicted
    column = sample["table"].var_names.get_loc(genes[0])
    counts = sample["table"].X.tolil()
    counts[:, column] = 0
    sample["table"].X = counts.tocsr()
    assert heading(sp.pl.expression(sample, genes[0])[0, 1]) == f"{genes[0]}, predicted, no variance"


def test_what_is_not_there_is_said(predicted):
    sample, genes = predicted
    with pytest.raises(KeyError, match=r"toy_1: genes: 'Actb' were not predicted; predicted genes:"):
        sp.pl.expression(sample, [genes[0], "Actb"])
    with pytest.raises(KeyError, match=r"key='mine': .* predictions: 'predicted'"):
        sp.pl.expression(sample, genes[0], key="mine")
    with pytest.raises(ValueError, match="genes is empty"):
        sp.pl.expression(sample, [])


# --- ranking


def trust(n=40):
    pearson = np.linspace(0.9, -0.1, n)
    table = pd.DataFrame({"gene": [f"g{i:02d}" for i in range(n)], "pearson": pearson})
    return table.assign(low=pearson - 0.1, high=pearson + 0.1, n_sections=3)


def bench():
    rng = np.random.default_rng(0)
    rows = [
        {
            "protocol": protocol, "representation": rep, "fold": unit, "section": unit if protocol == "sound" else "",
            "gene": f"g{g}", "pearson": np.nan if g == 5 else 0.1 * g + 0.01 * rng.normal(),
        }
        for protocol in ("hest", "sound") for rep in ("one", "two") for unit in "xyz" for g in range(6)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def names(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_genes_are_ranked_with_their_intervals():
    (ax,) = sp.pl.expression_ranking(trust(), n_genes=12)
    assert names(ax) == [f"g{i:02d}" for i in range(12)]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), trust()["pearson"][:12])
    (lines,) = (one for one in ax.collections if isinstance(one, LineCollection))
    ends = np.array([one.vertices[:, 0] for one in lines.get_paths()])
    np.testing.assert_allclose(ends, trust()[["low", "high"]][:12])
    assert heading(ax) == "held-out sections: 12 of 40 genes"
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # best on top


def test_a_benchmark_has_a_panel_per_protocol_and_a_colour_per_representation():
    axes = sp.pl.expression_ranking(bench())
    assert [heading(ax) for ax in axes] == [f"{p}: 5 of 6 genes, 1 without variance" for p in ("hest", "sound")]
    for ax in axes:
        assert names(ax) == ["g4", "g3", "g2", "g1", "g0"]
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "two"]
        assert ax.lines[0].get_color() != ax.lines[1].get_color()


def test_genes_without_interval_are_drawn_as_dots():
    (ax,) = sp.pl.expression_ranking(trust().assign(low=np.nan, high=np.nan), n_genes=5)
    assert len(ax.lines[0].get_xdata()) == 5


def test_tables_of_something_else_are_refused():
    with pytest.raises(ValueError, match=r"table lacks 'low'; .* Pass what sp.tl.expression_trust"):
        sp.pl.expression_ranking(trust().drop(columns="low"))
    with pytest.raises(TypeError, match="table: got list"):
        sp.pl.expression_ranking([])
    with pytest.raises(ValueError, match="table is empty"):
        sp.pl.expression_ranking(trust().head(0))
    with pytest.raises(ValueError, match="no gene varies in any section"):
        sp.pl.expression_ranking(trust().assign(pearson=np.nan))
    with pytest.raises(ValueError, match="n_genes=0"):
        sp.pl.expression_ranking(trust(), n_genes=0)
    with pytest.raises(ValueError, match="got 1 Axes for 2 panels: hest, sound"):
        sp.pl.expression_ranking(bench(), ax=plt.subplots()[1])
