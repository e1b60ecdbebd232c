"""Times until an event, some censored: losses of Cox and of discrete hazards, Harrell's c-index, Kaplan–Meier and log-rank."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2 as chi2_distribution
from scipy.stats import norm

from spade.core.arrays import Floats

#: Pairs that are compared at once.
CHUNK = 2_000_000


class Curve(NamedTuple):
    """A Kaplan–Meier curve at every distinct time: survival with its band, and who is at risk, has the event, is censored."""

    time: Floats
    survival: Floats
    low: Floats
    high: Floats
    n_at_risk: NDArray[np.int64]
    n_events: NDArray[np.int64]
    n_censored: NDArray[np.int64]


class LogRank(NamedTuple):
    """A log-rank test: statistic, degrees of freedom, p, and the events of every group beside those expected."""

    chi2: float
    df: int
    p: float
    observed: Floats
    expected: Floats


def check_times(time: ArrayLike, event: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Return times as float64 and events as bool, both ``(n,)``; a time must be finite and at least 0, an event 0 or 1."""
    times, events = np.asarray(time, dtype=np.float64), np.asarray(event)
    if times.ndim != 1 or not len(times) or events.shape != times.shape:
        raise ValueError(f"time and event have shapes {times.shape} and {events.shape}; expected (n,) of both, n > 0.")
    strange = ~np.isfinite(times) | (times < 0)
    if strange.any():
        where = np.flatnonzero(strange)
        raise ValueError(
            f"time: {len(where)} of {len(times)} are negative or missing, such as {times[where[0]]:g} in row {where[0]}. "
            "Times are counted from the start of follow-up; correct these rows or leave them out."
        )
    if other := [value for value in events.tolist() if value not in (0, 1)]:
        raise ValueError(
            f"event: got {other[0]!r}; expected 1 or True where the event was seen, 0 or False where follow-up ended before it."
        )
    return times, events.astype(bool)


def concordance(time: ArrayLike, event: ArrayLike, risk: ArrayLike, strata: ArrayLike | None = None) -> float:
    """Harrell's c-index: the share of comparable pairs in which who has the event first has the higher risk.

    A pair is comparable if one has the event before the other's time, or at the time at which the other is censored. Two events at
    one time are not comparable; equal risks count half. NaN if no pair is comparable.

    Parameters
    ----------
    time, event, risk
        ``(n,)``.
    strata
        ``(n,)``; only pairs of the same one are compared, as where the risks of different models have different scales.
    """
    return float(weighted_concordance(time, event, risk, np.ones((1, np.size(time))), strata)[0])


def weighted_concordance(
    time: ArrayLike, event: ArrayLike, risk: ArrayLike, weights: NDArray[np.number], strata: ArrayLike | None = None
) -> Floats:
    """Return :func:`concordance` for every row of ``weights`` ``(n_sets, n)``: how often a row counts, as in a bootstrap."""
    times, events = check_times(time, event)
    scores = np.asarray(risk, dtype=np.float64)
    if scores.shape != times.shape or np.isnan(scores).any():
        raise ValueError(
            f"risk: got shape {scores.shape} with {np.isnan(scores).sum()} NaN; expected {times.shape} and no NaN."
        )
    stratum = np.zeros(len(times)) if strata is None else np.unique(np.asarray(strata), return_inverse=True)[1]
    w = np.asarray(weights, dtype=np.float64)
    right, pairs = np.zeros(len(w)), np.zeros(len(w))
    own = np.flatnonzero(events)
    step = max(1, CHUNK // len(times))
    for rows in (own[i : i + step, None] for i in range(0, len(own), step)):
        later = (times > times[rows]) | ((times == times[rows]) & ~events)
        later &= stratum == stratum[rows]
        score = later * ((scores[rows] > scores) + 0.5 * (scores[rows] == scores))
        pairs += ((w[:, rows[:, 0]] @ later) * w).sum(1)
        right += ((w[:, rows[:, 0]] @ score) * w).sum(1)
    return np.divide(right, pairs, out=np.full(len(w), np.nan), where=pairs > 0)


def kaplan_meier(time: ArrayLike, event: ArrayLike, level: float = 0.95) -> Curve:
    """Survival after every distinct time, with Greenwood's variance and bands on the log(-log) scale.

    Without any event the curve stays at 1. The band is 1 before the first event, and NaN once nobody is left.
    """
    times, events = check_times(time, event)
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}: expected a number between 0 and 1.")
    moments, at = np.unique(times, return_inverse=True)
    n_events, n_all = np.bincount(at, events).astype(np.int64), np.bincount(at)
    n_at_risk = n_all[::-1].cumsum()[::-1]
    survival = np.cumprod(1 - n_events / n_at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.cumsum(n_events / (n_at_risk * (n_at_risk - n_events)))
        width = norm.ppf((1 + level) / 2) * np.sqrt(variance) / -np.log(survival)
        low, high = survival ** np.exp(width), survival ** np.exp(-width)
    for bound in (low, high):
        bound[survival == 1] = 1
        bound[survival == 0] = np.nan
    return Curve(moments, survival, low, high, n_at_risk, n_events, n_all - n_events)


def log_rank(time: ArrayLike, event: ArrayLike, group: ArrayLike) -> LogRank:
    """Test whether groups differ in survival, by the events of each beside those expected if none did.

    Groups are in sorted order. A group that nobody is left of when the first event happens takes no part: it has no degree of freedom.
    Where nothing can differ, as without events, p is NaN.
    """
    times, events = check_times(time, event)
    names, of = np.unique(np.asarray(group), return_inverse=True)
    if of.shape != times.shape or len(names) < 2:
        raise ValueError(
            f"group: got shape {of.shape} with {len(names)} groups; expected {times.shape} with at least 2."
        )
    moments, at = np.unique(times, return_inverse=True)
    each = np.zeros((2, len(moments), len(names)))
    np.add.at(each[0], (at, of), 1)
    np.add.at(each[1], (at, of), events)
    n = each[0][::-1].cumsum(0)[::-1]
    happened = each[1].sum(1) > 0
    n, died = n[happened], each[1][happened]
    total, d = n.sum(1), died.sum(1)
    share = n / total[:, None]
    expected = (d[:, None] * share).sum(0)
    factor = d * (total - d) / np.maximum(total - 1, 1)
    variance = np.diag((factor[:, None] * share).sum(0)) - (factor[:, None] * share).T @ share
    values, vectors = np.linalg.eigh(variance)
    kept = values > 1e-10 * max(1.0, float(values.max()))
    observed = died.sum(0)
    statistic = float((((observed - expected) @ vectors[:, kept]) ** 2 / values[kept]).sum())
    df = int(kept.sum())
    return LogRank(statistic, df, float(chi2_distribution.sf(statistic, df)) if df else np.nan, observed, expected)
