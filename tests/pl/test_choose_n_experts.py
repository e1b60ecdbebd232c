"""Squares within clusters against the number of experts."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers.plots import section

import spade as sp


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
