"""Intervals cover as often as they say, and tests of signs are exact."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sections import no_warning
from scipy.stats import norm

from spade.core.evaluation.composition import composition
from spade.core.evaluation.intervals import bootstrap_weights, holm, interval, sign_flip_p


def test_draws_are_of_whole_units_and_seeded():
    drawn = bootstrap_weights(7, 500, 3)
    assert drawn.shape == (500, 7)
    assert np.issubdtype(drawn.dtype, np.integer)
    assert (drawn.sum(1) == 7).all()
    np.testing.assert_array_equal(drawn, bootstrap_weights(7, 500, np.random.default_rng(3)))
    assert drawn.mean(0) == pytest.approx(1, abs=0.15)


def test_intervals_are_percentiles_and_pass_over_nan():
    values = np.array([[1.0, np.nan, 5.0], [2.0, np.nan, np.nan], [3.0, np.nan, 7.0]])
    with no_warning():
        low, high = interval(values, 0.5)
    np.testing.assert_allclose(low, [1.5, np.nan, 5.5])
    np.testing.assert_allclose(high, [2.5, np.nan, 6.5])
    low, high = interval(np.arange(101.0))
    assert (float(low), float(high)) == pytest.approx((2.5, 97.5))


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        values = rng.normal(size=40)
        low, high = interval(bootstrap_weights(40, 400, rng) @ values / 40)
        inside += low <= 0 <= high
    assert 0.89 < inside / 300 < 0.98


def test_the_composition_of_clustered_spots_is_covered_though_spots_are_not_independent():
    """Sections differ in their share of an expert; an interval over spots would be far too narrow."""
    rng = np.random.default_rng(1)
    inside, widths = 0, []
    for _ in range(200):
        share = rng.beta(4, 4, size=30)
        ones = rng.binomial(200, share)
        counts = np.stack([ones, 200 - ones], axis=1)[:, None]
        found = composition(np.concatenate([counts, counts[::-1]], axis=1), 300, rng)
        low, high = (float(bound[0, 0]) for bound in found.share_bounds)
        inside += low <= 0.5 <= high
        widths.append(high - low)
    assert inside / 200 > 0.87
    assert np.mean(widths) > 3 * 3.92 * np.sqrt(0.25 / 6000)


def test_signs_and_corrections():
    rng = np.random.default_rng(0)
    assert sign_flip_p(np.array([1.0, 2, 3, 4]), rng) == 2 / 16
    assert sign_flip_p(np.array([1.0, -1]), rng) == 1
    assert sign_flip_p(np.zeros(5), rng) == 1
    assert np.isnan(sign_flip_p(np.array([]), rng))
    many = rng.normal(0.6, 1, 30)
    assert sign_flip_p(many, rng) == pytest.approx(2 * norm.sf(many.sum() / np.sqrt(np.square(many).sum())), abs=0.01)
    np.testing.assert_allclose(holm(np.array([0.01, np.nan, 0.04, 0.03])), [0.03, np.nan, 0.06, 0.06])
