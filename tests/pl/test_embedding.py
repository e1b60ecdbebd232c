"""Scatter plots of embeddings."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from helpers.plots import labels_of
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgba

import spade as sp
from spade._samples.shown.colours import SAFE


def points_of(ax):
    (points,) = [c for c in ax.collections if isinstance(c, PathCollection)]
    return points


@pytest.mark.slow
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
    with pytest.raises(KeyError, match=r"toy_0: basis='X_no' is not in obsm; keys: .*'X_spade'.*sp\.tl\.embed"):
        sp.pl.embedding(embedded, basis="X_no")
    with pytest.raises(KeyError, match=r"color='no' is neither a column of obs nor a gene.*obs: .*'domain'"):
        sp.pl.embedding(embedded, color=["domain", "no"])
    with pytest.raises(KeyError, match=r"key='mine': .*there: 'spade_expert'"):
        sp.pl.embedding(embedded, key="mine", color="expert")
    with pytest.raises(ValueError, match=r"color: got an empty list"):
        sp.pl.embedding(embedded, color=[])
    embedded[0]["table"].obsm["X_spade"] = np.full((80, 256), np.nan, dtype=np.float32)
    with pytest.raises(ValueError, match=r"basis='X_spade' has 0 rows without NaN of 80; at least 10"):
        sp.pl.embedding(embedded[0])
    embedded[0]["table"].obsm["X_spade"] = np.zeros((80, 3), dtype=np.float32)
    with pytest.raises(ValueError, match=r"differs in width between samples \(toy_0: \d+, toy_1: \d+\)"):
        sp.pl.embedding(embedded)
