"""Prototypes and the experts that they lead to."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

import spade as sp
from spade._samples.experts import palette
from spade.core.experts.routing import Routing

#: Two pairs of neighbours and one far from all.
CENTROIDS = np.array([[0.0, 0], [9, 0], [0, 1], [9, 1], [30, 30]])
EXPERTS = np.array([1, 0, 1, 0, 2])


def made(**options):
    return Routing(CENTROIDS, EXPERTS, np.array([5.0, -1]), np.array([2.0, 0.5]), temperature=1.0, **options)


def rows_of(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_rows_follow_the_tree_and_hold_the_weights_at_the_centroids():
    routing = made()
    tree, weights = sp.pl.routing(routing)
    order = [int(name) for name in rows_of(weights)]
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert abs(order.index(0) - order.index(2)) == abs(order.index(1) - order.index(3)) == 1
    assert order.index(4) in (0, 4)
    own = weights.images[0].get_array()
    np.testing.assert_allclose(own, routing.weights(CENTROIDS * [2.0, 0.5] + [5.0, -1])[order])
    assert own.argmax(1).tolist() == EXPERTS[order].tolist()
    framed = {}
    for frame in weights.patches:
        rows = np.arange(round(frame.get_y() + 0.5), round(frame.get_y() + frame.get_height() + 0.5))
        framed |= {int(row): (frame.get_x() + 0.5, to_hex(frame.get_edgecolor())) for row in rows}
    assert framed == {row: (expert, palette(3)[expert]) for row, expert in enumerate(EXPERTS[order])}
    assert len(weights.patches) == 3
    joins = sorted(line.get_xdata().max() for line in tree.lines)
    assert joins[:2] == pytest.approx([1, 1])
    between = np.linalg.norm(CENTROIDS[[0, 2]][:, None] - CENTROIDS[[1, 3]], axis=2).mean()
    assert joins[2] == pytest.approx(between)
    assert sorted(tree.get_ylim()) == sorted(weights.get_ylim())  # a leaf is level with its row
    pairs = [sorted(line.get_ydata())[::3] for line in tree.lines if line.get_xdata().max() < 2]
    assert sorted(pairs) == sorted(sorted([order.index(i), order.index(i + 2)]) for i in (0, 1))


def test_groups_experts_without_spots_and_a_single_prototype():
    names = ("lung", "lung", "breast", "lung", "breast")
    _, weights = sp.pl.routing(made(groups=names, active=np.array([True, True, True, False])))
    assert set(rows_of(weights)) == {f"{i} {name}" for i, name in enumerate(names)}
    assert weights.get_title(loc="left") == "4 experts, 1 untrained"
    tree, weights = sp.pl.routing(Routing(np.zeros((1, 2)), np.array([0]), np.zeros(2), np.ones(2)))
    assert not tree.lines
    assert tree.get_title(loc="left") == "1 prototype"


def test_a_model_is_drawn_by_its_routing(model):
    for one, other in zip(sp.pl.routing(model), sp.pl.routing(model.routing), strict=True):
        assert rows_of(one) == rows_of(other)
    with pytest.raises(ValueError, match=r"figsize=\(4, 4\): the Axes of ax= are drawn into"):
        sp.pl.routing(model, ax=sp.pl.routing(model), figsize=(4, 4))
