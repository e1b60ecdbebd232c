"""Plots of programs, by what the artists hold."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import fresh
from matplotlib.collections import EllipseCollection

import spade as sp


@pytest.fixture(scope="module")
def programs(_cohort):
    return sp.tl.train_programs([fresh(one) for one in _cohort], use_rep="X_texture", n_clusters=(4,), n_programs=3)


def spots(ax):
    return next((one for one in ax.collections if isinstance(one, EllipseCollection)), None)


def test_the_best_program_comes_first_measured_beside_predicted(cohort, programs):
    axes = sp.pl.programs(cohort, programs, n_programs=2)
    assert axes.shape == (4, 2)
    table, history = cohort[0]["table"], programs.history[programs.history["kind"] == "program"].reset_index()
    best = history["held_out"].idxmax()
    predicted = programs.predict_programs(table.obsm["X_texture"])[:, best]
    np.testing.assert_allclose(spots(axes[0, 1]).get_array(), predicted, rtol=1e-4, atol=1e-4)
    y = np.log1p(1e4 * table.X.toarray() / table.X.sum(1).reshape(-1, 1))
    y = y[:, table.var_names.get_indexer(programs.genes.names)]
    measured = programs.measure_programs(y)[:, best]
    measured = (measured - measured.mean()) / measured.std()
    np.testing.assert_allclose(spots(axes[0, 0]).get_array(), measured, rtol=1e-3, atol=1e-3)
    name, r = history["name"][best], np.corrcoef(measured, predicted)[0, 1]
    assert axes[0, 0].get_title(loc="left") == f"toy_0: {name}, measured"
    assert axes[0, 1].get_title(loc="left") == f"{name}, predicted, r = {r:.2f}"


def test_colours_and_sizes_are_scanpys(cohort, programs):
    plain = spots(sp.pl.programs(cohort[0], programs, n_programs=1)[0, 0])
    axes = sp.pl.programs(cohort[0], programs, n_programs=1, cmap="magma", vmin=-1, vmax=1, size=2, alpha_img=0.1)[0]
    assert {(spots(ax).cmap.name, spots(ax).get_clim(), ax.images[0].get_alpha()) for ax in axes} == {
        ("magma", (-1, 1), 0.1)
    }
    np.testing.assert_allclose(spots(axes[0]).get_widths(), 2 * plain.get_widths())


def test_sections_without_expression(cohort, programs):
    cohort[1].tables["table"] = cohort[1]["table"][:, :0].copy()
    assert sp.pl.programs(cohort[1], programs).shape == (3, 1)
    axes = sp.pl.programs(cohort, programs, n_programs=1)
    assert axes.shape == (2, 2) and spots(axes[1, 0]) is None and spots(axes[1, 1]) is not None


def test_a_model_without_programs_is_refused(cohort):
    model = sp.tl.train_programs(cohort, use_rep="X_texture", targets="image", n_clusters=(4,))
    with pytest.raises(ValueError, match="it has no programs to draw"):
        sp.pl.programs(cohort, model)
