"""Correlations, ridge regression and neighbours on plain arrays, against what scikit-learn and loops give."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.special import softmax
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge

from spade.core.evaluation.folds import halves, section_folds
from spade.core.expression import ridge as prediction
from spade.core.expression.correlation import pearson_per_gene
from spade.core.expression.neighbours import neighbour_expression
from spade.core.expression.ridge import best_penalty, fit_ridge, ridge_errors


def data(n=60, d=9, g=7, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    y = np.maximum(x @ rng.normal(size=(d, g)) + rng.normal(size=(n, g)), 0)
    return x, csr_matrix(y.astype(np.float32))


def test_correlations_are_those_of_scipy():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(50, 6)).astype(np.float32) + 1000
    predicted = truth * [1, -1, 0.1, 1, 1, 1] + rng.normal(size=(50, 6))
    wanted = [pearsonr(truth[:, g].astype(float), predicted[:, g])[0] for g in range(6)]
    np.testing.assert_allclose(pearson_per_gene(truth, predicted), wanted, atol=1e-6)


def test_genes_without_variance():
    rng = np.random.default_rng(0)
    truth, predicted = rng.normal(size=(2, 20, 4))
    truth[:, 0] = 0.1  # whose mean is not exactly 0.1
    truth[:, 1] = 0
    predicted[:, 1] = 0
    predicted[:, 2] = 1 / 3
    found = pearson_per_gene(truth, predicted)
    assert np.isnan(found[:2]).all()
    assert found[2] == 0
    assert np.isfinite(found[3])
    assert np.isnan(pearson_per_gene(truth[:1], predicted[:1])).all()
    with pytest.raises(ValueError, match=r"truth has shape \(20, 4\) and predicted has shape \(20, 3\)"):
        pearson_per_gene(truth, predicted[:, :3])


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("d", [9, 200])  # fewer and more features than rows
def test_ridge_is_that_of_scikit_learn(intercept, d):
    x, y = data(d=d)
    fit = fit_ridge(x, y, intercept=intercept)
    for alpha in (0.01, 1.0, 100.0):
        theirs = Ridge(alpha=alpha, fit_intercept=intercept).fit(x.astype(float), y.toarray().astype(float))
        np.testing.assert_allclose(fit.coefficients(alpha), theirs.coef_.T, atol=1e-6)
        np.testing.assert_allclose(fit.predict(x, alpha), theirs.predict(x.astype(float)), atol=1e-5)
        np.testing.assert_allclose(
            fit.predict(x, alpha, slice(2, 4)), theirs.predict(x.astype(float))[:, 2:4], atol=1e-5
        )


def test_dense_and_sparse_expression_give_the_same(monkeypatch):
    x, y = data()
    np.testing.assert_allclose(fit_ridge(x, y).predict(x, 1.0), fit_ridge(x, y.toarray()).predict(x, 1.0), atol=1e-5)
    section = np.array(["a", "b", "c"])[np.arange(60) % 3]
    folds = section_folds(section, None, 0.0)
    whole = ridge_errors(x, y, folds, np.array([1.0, 10.0]))
    monkeypatch.setattr(prediction, "N_GENES", 3)
    blocks = ridge_errors(x, y, folds, np.array([1.0, 10.0]))
    np.testing.assert_allclose(whole.squared, blocks.squared)
    np.testing.assert_allclose(whole.explained, blocks.explained)


def test_held_out_errors_are_those_of_a_loop():
    x, y = data()
    folds = section_folds(np.array(["a", "b"])[np.arange(60) % 2], None, 0.0)
    errors = ridge_errors(x, y, folds, np.array([5.0]))
    squared, kept, total = 0.0, 0.0, 0.0
    for train, test in folds:
        theirs = Ridge(alpha=5.0).fit(x[train].astype(float), y[train].toarray().astype(float))
        error = y[test].toarray() - theirs.predict(x[test].astype(float))
        squared = squared + (error**2).sum(0)
        kept = kept + len(test) * error.var(0)
        total = total + len(test) * y[test].toarray().var(0)
    np.testing.assert_allclose(errors.squared[0], squared / 60, rtol=1e-4)
    np.testing.assert_allclose(errors.explained[0], 1 - kept / total, atol=1e-4)


def test_the_penalty_grows_with_noise():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 30))
    folds = section_folds(np.repeat(["a", "b", "c"], 40), None, 0)
    weights = rng.normal(size=(30, 5))
    chosen = []
    for noise in (0.1, 20.0):
        y = csr_matrix(x @ weights + noise * rng.normal(size=(120, 5)))
        chosen.append(best_penalty(ridge_errors(x, y, folds, prediction.ALPHAS)))
    assert chosen[0] < chosen[1]
    nothing = ridge_errors(x, csr_matrix(np.zeros((120, 2))), folds, prediction.ALPHAS)
    assert best_penalty(nothing) == len(prediction.ALPHAS) - 1


def test_the_offset_of_a_section_held_out_does_not_choose_the_penalty():
    x, y = data()
    section = np.repeat(["a", "b"], 30)
    shifted = csr_matrix(y.toarray() + 100.0 * (section == "b")[:, None])
    one, other = (ridge_errors(x, of, section_folds(section, None, 0), prediction.ALPHAS) for of in (y, shifted))
    assert other.squared.min() > 100 * one.squared.min()
    np.testing.assert_allclose(one.explained, other.explained, atol=1e-4)


def test_one_section_is_cut_into_halves_with_a_guard_band():
    points = np.column_stack([np.arange(20) * 10.0, np.arange(20) % 2])
    folds = halves(points, 15.0)
    for train, test in folds:
        gaps = np.abs(points[train][:, None] - points[test][None])[..., 0].min()
        assert gaps >= 15
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(20))
    assert section_folds(np.array(["a"] * 20), None, 0.0) == []
    assert len(section_folds(np.array(["a"] * 20), points, 15.0)) == 2
    assert section_folds(np.array(["a"] * 20), points, 1e4) == []  # nothing is left to train on


def test_neighbours_are_weighted_means_and_deviations(monkeypatch):
    monkeypatch.setattr(prediction, "N_GENES", 3)
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(8, 4)).astype(np.float32), rng.normal(size=(25, 4)).astype(np.float32)
    _, y = data(25)
    mean, deviation = neighbour_expression(query, gallery, y, 6, 0.5)
    for i in range(8):
        scores = gallery @ query[i]
        best = np.argsort(-scores)[:6]
        weights = softmax(scores[best] / 0.5)
        values = y.toarray()[best]
        np.testing.assert_allclose(mean[i], weights @ values, atol=1e-5)
        np.testing.assert_allclose(deviation[i], np.sqrt(weights @ (values - weights @ values) ** 2), atol=1e-3)
    alone, nothing = neighbour_expression(query, gallery, y, 1, 0.1)
    assert np.abs(nothing).max() < 1e-3
    assert all(any(np.allclose(row, other) for other in y.toarray()) for row in alone)
    everything, _ = neighbour_expression(query, gallery, y, 10_000, 1e9)
    np.testing.assert_allclose(everything, np.tile(y.toarray().mean(0), (8, 1)), atol=1e-5)
