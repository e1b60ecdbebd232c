"""Cumulative logits, against logistic regression, direct minimisation and numerical gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime, minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from spade.core.slides import ordinal
from spade.core.slides.heads import make_head


def plain_nll(logits, y):
    """−log of the difference of two sigmoids, without care for digits."""
    above = np.hstack([np.ones((len(logits), 1)), expit(logits), np.zeros((len(logits), 1))])
    rows = np.arange(len(y))
    return -np.log(above[rows, y] - above[rows, y + 1])


@pytest.fixture
def graded():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    score = 2 * x[:, 0] + rng.logistic(size=60)
    return x, np.searchsorted([-1.5, 0.3, 2], score)


def test_the_likelihood_is_a_difference_of_sigmoids_and_has_its_gradient():
    rng = np.random.default_rng(0)
    logits, y = -np.sort(-rng.normal(size=(20, 3)), axis=1), np.arange(20) % 4
    tensor = torch.as_tensor(logits).requires_grad_()
    losses = ordinal.grade_nll(tensor, torch.as_tensor(y))
    np.testing.assert_allclose(losses.detach().numpy(), plain_nll(logits, y), rtol=1e-10)
    (slope,) = torch.autograd.grad(losses.sum(), tensor)
    numeric = approx_fprime(logits.ravel(), lambda flat: plain_nll(flat.reshape(20, 3), y).sum(), 1e-7)
    np.testing.assert_allclose(slope.numpy().ravel(), numeric, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        ordinal.grade_probabilities(logits)[np.arange(20), y], np.exp(-plain_nll(logits, y)), rtol=1e-10
    )
    np.testing.assert_allclose(ordinal.grade_probabilities(logits).sum(1), 1)


def test_scores_far_off_have_a_loss_and_a_gradient():
    far = torch.tensor([[300.0, 290.0], [-290.0, -300.0]]).requires_grad_()
    for y, expected in ((0, [300, 0]), (1, [290, 290]), (2, [0, 300])):
        losses = ordinal.grade_nll(far, torch.tensor([y, y]))
        assert losses.detach().numpy() == pytest.approx(expected, abs=0.01)
        (slope,) = torch.autograd.grad(losses.sum(), far)
        assert torch.isfinite(slope).all()


@pytest.mark.parametrize("width", [3, 90])
def test_two_grades_are_a_logistic_regression(graded, width):
    x, y = graded
    x = np.hstack([x, np.random.default_rng(1).normal(size=(60, width - 3))])
    y = (y > 1).astype(np.int64)
    weight = 60 / (2 * np.bincount(y))
    fitted = ordinal.fit_grades(x, y, 0.7, weight[y])
    model = LogisticRegression(C=0.7, class_weight="balanced", tol=1e-10, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(fitted.weights, model.coef_[0], atol=1e-4)
    np.testing.assert_allclose(fitted.probabilities(x), model.predict_proba(x), atol=1e-4)


@pytest.mark.parametrize("width", [3, 90])
def test_the_fit_minimises_the_penalised_likelihood(graded, width):
    x, y = graded
    x = np.hstack([x, np.random.default_rng(1).normal(size=(60, width - 3))])
    weight, c = 1.0 + (y == 3), 0.5

    def objective(flat):
        cuts = np.cumsum(np.concatenate([flat[width : width + 1], np.exp(flat[width + 1 :])]))
        return c * (weight * plain_nll((x @ flat[:width])[:, None] - cuts, y)).sum() + (flat[:width] ** 2).sum() / 2

    start = np.concatenate([np.zeros(width), [-1, 0, 0]])
    best = minimize(objective, start, method="BFGS", options={"maxiter": 2_000}).x
    fitted = ordinal.fit_grades(x, y, c, weight)
    np.testing.assert_allclose(fitted.weights, best[:width], atol=2e-3)
    found = np.concatenate([fitted.weights, fitted.cuts[:1], np.log(np.diff(fitted.cuts))])
    assert objective(found) <= objective(best) + 1e-6
    assert np.abs(approx_fprime(found, objective, 1e-6)).max() < 1e-2


def test_a_proportional_odds_model_is_found_again():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6_000, 2))
    y = np.searchsorted([-1.0, 0.5, 2.5], x @ [1.5, -0.5] + rng.logistic(size=6_000))
    fitted = ordinal.fit_grades(x, y, 1e3, np.ones(6_000))
    np.testing.assert_allclose(fitted.weights, [1.5, -0.5], atol=0.1)
    np.testing.assert_allclose(fitted.cuts, [-1, 0.5, 2.5], atol=0.1)


def test_the_median_grade_has_half_of_the_probability_at_or_below():
    p = np.array([[0.5, 0.3, 0.2], [0.4, 0.15, 0.45], [0.1, 0.1, 0.8], [1, 0, 0]])
    assert ordinal.median_grade(p).tolist() == [0, 1, 2, 0]


def test_a_head_with_cuts_begins_with_the_shares_and_keeps_their_order():
    head = make_head("abmil", 4, 1, hidden=8, generator=torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(head.out.weight)
    torch.nn.init.zeros_(head.out.bias)
    module = ordinal.Cumulative(head, np.array([2.0, 1.0, 4.0, 1.0]))
    bag = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    logits, attention = module.eval()(bag)
    shares = ordinal.grade_probabilities(logits.detach().numpy()[None])[0]
    np.testing.assert_allclose(shares, [0.25, 0.125, 0.5, 0.125], rtol=1e-5)
    assert float(attention.detach().sum()) == pytest.approx(1)
    optimiser = torch.optim.SGD(module.parameters(), lr=5.0)
    for _ in range(20):
        optimiser.zero_grad()
        ordinal.grade_nll(module(bag)[0][None], torch.tensor([1])).sum().backward()
        optimiser.step()
    logits = module(bag)[0].detach()
    assert (logits.diff() < 0).all()
    assert ordinal.grade_probabilities(logits.numpy()[None])[0].argmax() == 1
