"""The gallery of experts: their patches and genes."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.plots import grid, pixels, section, with_experts
from matplotlib.colors import to_hex

import spade as sp
from spade._samples.experts import palette


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
