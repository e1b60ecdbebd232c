"""Curves of the squares within clusters, without a plot."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sections import featured, spoil

from spade.tl._training.choose_n_experts import read_groups, sweep_clusters


def planted(n=60, seed=0):
    """Points in three far clusters, in two groups."""
    rng = np.random.default_rng(seed)
    centres = np.array([[0, 0], [30, 0], [0, 30]])
    x = centres[np.arange(n) % 3] + rng.normal(size=(n, 2))
    return x.astype(np.float32), np.array(["a"] * (n // 3) + ["b"] * (n - n // 3))


def sweep(x, groups, counts, n_prototypes=4):
    return sweep_clusters(x, groups, counts, n_prototypes=n_prototypes, feature_scaling="none", seed=0)


def test_every_group_has_a_curve_that_bends_where_clusters_are_planted():
    x, groups = planted()
    found = sweep(x, groups, [1, 2, 3, 4])
    assert list(found.prototypes) == ["a", "b"]
    for curve in found.prototypes.values():
        assert curve.n_clusters == [1, 2, 3, 4]
        assert curve.share[0] == pytest.approx(1, abs=1e-4)
        assert curve.share[1] > 0.2
        assert curve.share[2] < 0.05
        assert (np.diff(curve.share) < 0).all()
    assert found.n_prototypes == 8
    assert found.experts.n_clusters == [1, 2, 3, 4]
    assert found.experts.share[2] < 0.05


def test_numbers_above_the_number_of_rows_are_left_out():
    x, groups = planted(9)
    found = sweep(x, groups, [1, 2, 5, 100], n_prototypes=50)
    assert found.prototypes["a"].n_clusters == [1, 2]
    assert found.prototypes["b"].n_clusters == [1, 2, 5]
    assert found.n_prototypes == 6  # as many per group as the smallest group has rows
    assert found.experts.n_clusters == [1, 2, 5]


def test_groups_are_read_without_missing_rows_and_thinned_at_random():
    samples = [featured(name="a", seed=1), featured(name="b", seed=2)]
    spoil(samples[0], "X_f", [0, 5])
    x, groups = read_groups(samples, "X_f", None, 1000, None, 0)
    assert x.shape == (70, 8)
    assert set(groups) == {""}
    thin, of_patients = read_groups(samples, "X_f", "patient", 10, None, 0)
    assert np.unique(of_patients, return_counts=True)[1].tolist() == [10, 10]
    again, _ = read_groups(samples, "X_f", "patient", 10, None, 0)
    other, _ = read_groups(samples, "X_f", "patient", 10, None, 1)
    np.testing.assert_array_equal(thin, again)
    assert not np.array_equal(thin, other)


def test_features_must_be_there_and_of_one_width():
    samples = [featured(name="a"), featured(name="b", width=5)]
    with pytest.raises(ValueError, match=r"use_rep='X_f' differs in width between samples \(a: 8, b: 5\)"):
        read_groups(samples, "X_f", None, 10, None, 0)
    spoil(samples[0], "X_f", slice(None))
    with pytest.raises(ValueError, match="use_rep='X_f': no sample has a valid row"):
        read_groups(samples[0], "X_f", None, 10, None, 0)
