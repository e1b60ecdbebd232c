"""Survival losses and statistics against loops in float64 and examples worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.survival import PLACEBO, SEEN, TREATED, slow_concordance, slow_cox
from scipy.optimize import minimize

from spade.core.slides.linear_survival import ridge_path
from spade.core.slides.survival import concordance, kaplan_meier, log_rank, weighted_concordance
from spade.core.slides.survival_losses import cox_loss, discrete_bins, discrete_nll, discrete_risk, time_bins


def drawn(n=40, seed=0, n_times=12):
    """Risks, times with ties and events."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=n).round(1), rng.integers(1, n_times, n).astype(float), rng.random(n) < 0.6


def slow_nll(logits, bins, event):
    total = 0.0
    for row, k, e in zip(logits, bins, event, strict=True):
        hazard = [1 / (1 + math.exp(-value)) for value in row]
        likelihood = math.prod(1 - h for h in hazard[:k]) * (hazard[k] if e else 1 - hazard[k])
        total -= math.log(likelihood)
    return total / len(bins)


# --- Cox


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("seed", range(4))
def test_cox_is_the_sum_over_events(ties, seed):
    risk, time, event = drawn(seed=seed, n_times=5 if seed else 1000)
    found = cox_loss(*map(torch.as_tensor, (risk, time, event)), ties)
    assert float(found) == pytest.approx(slow_cox(risk, time, event, ties), rel=1e-12)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_cox_has_the_right_gradient(ties):
    risk, time, event = drawn(15, n_times=4)
    r = torch.as_tensor(risk).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda r: cox_loss(r, torch.as_tensor(time), torch.as_tensor(event), ties), r)


def test_cox_by_hand():
    # three patients, all with the event, equal risks: denominators of 3, 2 and 1
    time, all_seen = torch.tensor([1.0, 2.0, 3.0]), torch.ones(3, dtype=torch.bool)
    assert float(cox_loss(torch.zeros(3), time, all_seen)) == pytest.approx(math.log(6) / 3)
    tied = torch.ones(3)
    assert float(cox_loss(torch.zeros(3), tied, all_seen, "breslow")) == pytest.approx(math.log(27) / 3)
    assert float(cox_loss(torch.zeros(3), tied, all_seen, "efron")) == pytest.approx(math.log(6) / 3)
    # without ties both are one
    assert float(cox_loss(torch.ones(3), time, all_seen, "breslow")) == pytest.approx(math.log(6) / 3)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_cox_stays_finite_for_extreme_risks_and_ignores_a_shift(ties):
    time, event = torch.tensor([1.0, 1.0, 2.0, 3.0, 3.0]), torch.tensor([True, True, False, True, True])
    risk = torch.tensor([3e4, -3e4, 2e4, -2e4, 1e4], requires_grad=True)
    loss = cox_loss(risk, time, event, ties)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(risk.grad).all()
    small = torch.tensor([0.3, -1.0, 0.2, 0.9, 2.0], dtype=torch.float64)
    assert float(cox_loss(small + 500, time, event, ties)) == pytest.approx(float(cox_loss(small, time, event, ties)))


def test_cox_refuses_what_it_cannot_compare():
    one = torch.ones(3)
    with pytest.raises(ValueError, match="event: no row has the event"):
        cox_loss(one, one, torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="ties='exact': expected"):
        cox_loss(one, one, one, "exact")
    with pytest.raises(ValueError, match=r"shapes \(3, 1\), \(3,\), \(3,\)"):
        cox_loss(one[:, None], one, one)


# --- discrete hazards


@pytest.mark.parametrize("seed", range(3))
def test_discrete_nll_is_the_product_of_hazards(seed):
    rng = np.random.default_rng(seed)
    logits, bins, event = rng.normal(size=(30, 4)) * 3, rng.integers(0, 4, 30), rng.random(30) < 0.5
    found = discrete_nll(*map(torch.as_tensor, (logits, bins, event)))
    assert float(found) == pytest.approx(slow_nll(logits, bins, event), rel=1e-12)
    x = torch.as_tensor(logits[:6]).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: discrete_nll(x, torch.as_tensor(bins[:6]), torch.as_tensor(event[:6])), x)


def test_discrete_likelihoods_of_all_outcomes_sum_to_one():
    logits = torch.tensor([[0.3, -2.0, 1.0]], dtype=torch.float64)
    outcomes = [(k, True) for k in range(3)] + [(2, False)]  # an event in some bin, or survival of all
    total = sum(math.exp(-float(discrete_nll(logits, torch.tensor([k]), torch.tensor([e])))) for k, e in outcomes)
    assert total == pytest.approx(1)


def test_discrete_nll_stays_finite_and_checks_shapes():
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = discrete_nll(logits, torch.tensor([1, 0]), torch.tensor([True, True]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    with pytest.raises(ValueError, match=r"shapes \(2, 2\), \(1,\), \(2,\)"):
        discrete_nll(logits, torch.tensor([0]), torch.tensor([True, True]))


def test_discrete_risk_is_minus_the_bins_survived():
    logits = torch.tensor([[0.0, 0.0], [50.0, 0.0], [-50.0, -50.0]], dtype=torch.float64)
    np.testing.assert_allclose(discrete_risk(logits), [-(0.5 + 0.25), 0, -2], atol=1e-12)


def test_bins_have_alike_numbers_of_events():
    time, event = np.arange(1.0, 25), np.arange(24) % 3 > 0
    edges = discrete_bins(time, event, 4)
    bins = time_bins(time, edges)
    assert np.bincount(bins[event]).tolist() == [4, 4, 4, 4]
    assert time_bins([0, edges[0], 1e9], edges).tolist() == [0, 1, 3]
    with pytest.raises(ValueError, match="n_bins=4 is more than the number of distinct times of events, 2"):
        discrete_bins([1, 1, 1, 2, 2, 2], [1] * 6, 4)
    with pytest.raises(ValueError, match="n_bins=1: expected a whole number of at least 2"):
        discrete_bins(time, event, 1)
    with pytest.raises(ValueError, match="n_bins=2 is more than the number of distinct times of events, 0"):
        discrete_bins(time, event * 0, 2)
    tied = np.array([1.0] * 9 + [2, 3])  # most events at the first time, or at the last
    assert np.bincount(time_bins(tied, discrete_bins(tied, np.ones(11), 3))).tolist() == [9, 1, 1]
    assert np.bincount(time_bins(4 - tied, discrete_bins(4 - tied, np.ones(11), 3))).tolist() == [1, 1, 9]


# --- c-index


@pytest.mark.parametrize("seed", range(5))
def test_concordance_is_that_of_all_pairs(seed, monkeypatch):
    risk, time, event = drawn(60, seed)
    monkeypatch.setattr("spade.core.slides.survival.CHUNK", 200)  # a few rows at a time
    assert concordance(time, event, risk) == pytest.approx(slow_concordance(time, event, risk), abs=1e-12)
    strata = np.arange(60) % 4
    assert concordance(time, event, risk, strata) == pytest.approx(slow_concordance(time, event, risk, strata))


def test_concordance_by_hand():
    assert concordance([1, 2, 3], [1, 1, 1], [3, 2, 1]) == 1
    assert concordance([1, 2, 3], [1, 1, 1], [1, 2, 3]) == 0
    assert concordance([1, 2, 3], [1, 1, 1], [0, 0, 0]) == 0.5
    assert concordance([1, 2, 3], [0, 1, 0], [0, 5, 9]) == 0  # only the last pair is comparable
    assert concordance([1, 1], [1, 0], [2, 1]) == 1  # censored at the time of an event: later
    assert math.isnan(concordance([1, 1], [1, 1], [2, 1]))
    assert math.isnan(concordance([1, 2], [0, 0], [2, 1]))


def test_weights_repeat_rows():
    risk, time, event = drawn(30)
    weights = np.random.default_rng(0).integers(0, 3, (3, 30))
    for w, found in zip(weights, weighted_concordance(time, event, risk, weights), strict=True):
        rows = np.repeat(np.arange(30), w)
        assert found == pytest.approx(slow_concordance(time[rows], event[rows], risk[rows]))


# --- Kaplan–Meier and log-rank


def test_kaplan_meier_of_freireich():
    curve = kaplan_meier(TREATED, SEEN)
    steps = {t: s for t, s, n in zip(curve.time, curve.survival, curve.n_events, strict=True) if n}
    wanted = {6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
    assert steps.keys() == wanted.keys()
    np.testing.assert_allclose(list(steps.values()), list(wanted.values()), atol=5e-4)
    at = dict(zip(curve.time, zip(curve.n_at_risk, curve.n_events, curve.n_censored, strict=True), strict=True))
    assert at[6] == (21, 3, 1)
    assert at[10] == (15, 1, 1)
    assert at[35] == (1, 0, 1)
    assert curve.n_events.sum() + curve.n_censored.sum() == 21


def test_bands_are_those_of_greenwood():
    curve = kaplan_meier(TREATED, SEEN)
    first = int(np.flatnonzero(curve.time == 6)[0])
    deviation = math.sqrt(3 / (21 * 18)) / -math.log(18 / 21)  # of log(-log S) after three of 21
    for bound, sign in ((curve.low, 1), (curve.high, -1)):
        assert bound[first] == pytest.approx((18 / 21) ** math.exp(sign * 1.959964 * deviation), rel=1e-6)
    assert (curve.low <= curve.survival).all()
    assert (curve.survival <= curve.high).all()
    late = kaplan_meier([1, 2, 3], [0, 1, 1])
    assert late.survival.tolist() == [1, 0.5, 0]
    assert late.low[0] == late.high[0] == 1
    assert np.isnan([late.low[2], late.high[2]]).all()
    assert kaplan_meier([1, 2], [0, 0]).survival.tolist() == [1, 1]
    assert kaplan_meier([1, 2, 3], [1, 1, 0], 0.5).low[0] > kaplan_meier([1, 2, 3], [1, 1, 0]).low[0]
    with pytest.raises(ValueError, match="level=95: expected a number between 0 and 1"):
        kaplan_meier([1], [1], 95)


def test_log_rank_of_freireich():
    time, event = np.array(TREATED + PLACEBO), np.array(SEEN + [1] * 21)
    found = log_rank(time, event, ["6-MP"] * 21 + ["placebo"] * 21)
    assert found.chi2 == pytest.approx(16.79, abs=5e-3)
    assert found.df == 1
    assert found.p == pytest.approx(4.17e-5, rel=5e-3)
    np.testing.assert_allclose(found.observed, [9, 21])
    np.testing.assert_allclose(found.expected, [19.25, 10.75], atol=5e-3)


def slow_log_rank(time, event, group):
    """The statistic from k - 1 groups and the inverse of their covariance."""
    names = sorted(set(group))
    k = len(names)
    difference, variance = np.zeros(k), np.zeros((k, k))
    for moment in sorted(set(time[event])):
        n = np.array([sum((time >= moment) & (group == g)) for g in names], dtype=float)
        d = np.array([sum((time == moment) & event & (group == g)) for g in names], dtype=float)
        difference += d - d.sum() * n / n.sum()
        if n.sum() > 1:
            factor = d.sum() * (n.sum() - d.sum()) / (n.sum() - 1)
            variance += factor * (np.diag(n / n.sum()) - np.outer(n, n) / n.sum() ** 2)
    return difference[1:] @ np.linalg.inv(variance[1:, 1:]) @ difference[1:]


@pytest.mark.parametrize("k", [2, 3, 5])
def test_log_rank_of_several_groups(k):
    _, time, event = drawn(80, k)
    group = np.random.default_rng(k).integers(0, k, 80)
    found = log_rank(time, event, group)
    assert found.chi2 == pytest.approx(slow_log_rank(time, event, group))
    assert found.df == k - 1
    assert log_rank(time, event, group * -1).chi2 == pytest.approx(found.chi2)  # the order of groups does not matter
    assert found.observed.sum() == pytest.approx(found.expected.sum())


def test_log_rank_is_level_without_a_difference():
    rng = np.random.default_rng(0)
    p = [log_rank(rng.exponential(size=60), rng.random(60) < 0.7, np.arange(60) % 3).p for _ in range(300)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09


def test_log_rank_without_anything_to_tell():
    assert math.isnan(log_rank([1, 2, 3, 4], [0] * 4, [0, 1, 0, 1]).p)
    gone = log_rank([1, 1, 5, 6, 7, 8], [0, 0, 1, 1, 1, 0], ["x", "x", "a", "a", "b", "b"])
    assert gone.df == 1
    assert gone.chi2 == pytest.approx(log_rank([5, 6, 7, 8], [1, 1, 1, 0], ["a", "a", "b", "b"]).chi2)
    with pytest.raises(ValueError, match="number of groups 1; expected"):
        log_rank([1, 2], [1, 1], ["a", "a"])


@pytest.mark.parametrize(
    ("time", "event", "said"),
    [
        ([1, -2.5, 3], [1, 0, 1], "time: 1 of 3 are negative or missing, such as -2.5 in row 1"),
        ([1, np.nan, np.inf], [1, 0, 1], "time: 2 of 3 are negative or missing, such as nan in row 1"),
        ([1, 2, 3], [1, 0, 2], "event: got 2; expected 1 or True"),
        ([1, 2, 3], ["a", "b", "c"], "event: got 'a'; expected 1 or True"),
        ([1, 2, 3], [1, 0, np.nan], "event: got nan; expected 1 or True"),
        ([1, 2, 3], [1, 0], r"shapes \(3,\) and \(2,\)"),
        ([], [], r"shapes \(0,\) and \(0,\)"),
    ],
)
def test_times_and_events_that_are_none(time, event, said):
    for call in (kaplan_meier, lambda t, e: concordance(t, e, np.zeros(len(t))), lambda t, e: discrete_bins(t, e, 2)):
        with pytest.raises(ValueError, match=said):
            call(time, event)


def test_risks_must_be_numbers():
    with pytest.raises(ValueError, match=r"risk: got shape \(3,\) with 1 NaN; expected \(3,\)"):
        concordance([1, 2, 3], [1, 1, 0], [0, np.nan, 1])


# --- ridge


def test_ridge_cox_is_the_penalised_optimum():
    _, time, event = drawn(25)
    x = np.random.default_rng(1).normal(size=(25, 6)) * [1, 5, 1, 1, 1, 1] + 3
    scaled = (x - x.mean(0)) / x.std(0) / math.sqrt(6)

    def slow(w):
        return event.sum() * slow_cox(scaled @ w, time, event, "efron") + 2 / 2 * (w**2).sum()

    t, e = torch.as_tensor(time), torch.as_tensor(event)
    first, model = ridge_path(x, lambda out: cox_loss(out[:, 0], t, e), 1, event.sum(), (100.0, 2.0), intercept=False)
    wanted = minimize(slow, np.zeros(6), options={"gtol": 1e-7}).x
    np.testing.assert_allclose(model.weights[:, 0], wanted, atol=1e-4)
    np.testing.assert_allclose(model(x)[:, 0], scaled @ wanted, atol=1e-4)
    assert np.abs(first.weights).max() < np.abs(model.weights).max()


def test_ridge_hazards_are_the_penalised_optimum_also_with_more_features_than_rows():
    rng = np.random.default_rng(0)
    x, bins, event = rng.normal(size=(12, 30)), np.arange(12) % 3, rng.random(12) < 0.7
    scaled = (x - x.mean(0)) / x.std(0) / math.sqrt(30)
    b, e = torch.as_tensor(bins), torch.as_tensor(event)
    (model,) = ridge_path(x, lambda out: discrete_nll(out, b, e), 3, 12, (0.5,), intercept=True)

    def slow(w):
        w = w.reshape(31, 3)
        penalty = 0.25 * (w[:30] ** 2).sum() + 0.25e-3 * (w[30] ** 2).sum()
        return 12 * slow_nll(scaled @ w[:30] + w[30], bins, event) + penalty

    wanted = minimize(slow, np.zeros(93), options={"gtol": 1e-6}).x.reshape(31, 3)
    np.testing.assert_allclose(model(x), scaled @ wanted[:30] + wanted[30], atol=2e-3)
