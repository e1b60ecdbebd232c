"""Scores of numbers and grades, against other programs and counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import cohen_kappa_score, mean_absolute_error, r2_score

from spade.core.evaluation import numbers
from spade.core.evaluation.folds import quantile_strata


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    truth = np.round(rng.normal(size=30), 1)
    return truth, np.round(truth + rng.normal(size=30), 1)


def test_the_correlation_is_that_of_scipy(pairs):
    assert numbers.pearson(*pairs) == pytest.approx(pearsonr(*pairs).statistic, abs=1e-12)
    assert np.isnan(numbers.pearson(pairs[0], np.ones(30)))
    assert np.isnan(numbers.pearson(np.ones(1), np.ones(1)))


def test_r2_is_against_what_is_given(pairs):
    truth, predicted = pairs
    assert numbers.r2(truth, predicted, truth.mean()) == pytest.approx(r2_score(truth, predicted))
    assert numbers.r2(truth, np.full(30, 0.4), 0.4) == 0
    by_row = np.repeat([1.0, -1.0], 15)
    expected = 1 - sum((t - p) ** 2 for t, p in zip(*pairs, strict=True)) / sum((truth - by_row) ** 2)
    assert numbers.r2(truth, predicted, by_row) == pytest.approx(expected)
    assert np.isnan(numbers.r2(np.ones(3), np.zeros(3), 1.0))
    assert numbers.mean_absolute_error(truth, predicted) == pytest.approx(mean_absolute_error(truth, predicted))


def test_the_c_index_is_the_share_of_ordered_pairs(pairs):
    truth, predicted = pairs
    assert len(set(truth)) < 30 > len(set(predicted))  # there are ties
    right = [
        (predicted[i] > predicted[j]) + 0.5 * (predicted[i] == predicted[j])
        for i in range(30)
        for j in range(30)
        if truth[i] > truth[j]
    ]
    assert numbers.c_index(truth, predicted) == pytest.approx(np.mean(right), abs=1e-12)
    assert numbers.c_index(truth, truth) == pytest.approx(1)
    assert numbers.c_index(truth, -truth) == pytest.approx(0)
    assert numbers.c_index(truth, np.zeros(30)) == 0.5
    assert np.isnan(numbers.c_index(np.zeros(30), predicted))


def test_the_kappa_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 6, 200)
    predicted = np.clip(truth + rng.integers(-2, 3, 200), 0, 5)
    expected = cohen_kappa_score(truth, predicted, weights="quadratic", labels=range(6))
    assert numbers.quadratic_kappa(truth, predicted) == pytest.approx(expected, abs=1e-12)
    gaps = truth != 2  # a grade that nobody has still lies between its neighbours
    expected = cohen_kappa_score(truth[gaps], predicted[gaps], weights="quadratic", labels=range(6))
    assert numbers.quadratic_kappa(truth[gaps], predicted[gaps]) == pytest.approx(expected, abs=1e-12)
    assert numbers.quadratic_kappa(np.array([1, 1, 1]), np.array([0, 1, 2])) == pytest.approx(0)
    assert np.isnan(numbers.quadratic_kappa(np.ones(3), np.ones(3)))


def test_quantiles_hold_like_numbers_of_groups():
    groups = np.repeat(np.arange(12), 2)
    values = np.random.default_rng(0).permutation(12)[groups] + np.tile([0.3, -0.3], 12)
    strata = quantile_strata(values, groups, 4)
    assert np.bincount(strata).tolist() == [6, 6, 6, 6]
    means = values.reshape(12, 2).mean(1)
    assert (np.diff(strata[::2][np.argsort(means)]) >= 0).all()
    assert (strata[::2] == strata[1::2]).all()
    assert quantile_strata(np.array([0.0, 0, 0, 9]), np.arange(4), 2).tolist() == [0, 0, 0, 1]
    assert quantile_strata(np.zeros(5), np.arange(5), 3).tolist() == [0] * 5
