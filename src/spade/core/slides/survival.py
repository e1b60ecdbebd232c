"""Statistics of censored survival times: Harrell's c-index, Kaplan–Meier curves and the log-rank test."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2 as chi2_distribution
from scipy.stats import norm

from spade.core.arrays import Floats
from spade.core.checks import check_share

#: Pairs at a time.
CHUNK = 2_000_000


class Curve(NamedTuple):
    """A Kaplan–Meier curve at every distinct time: survival with its band, and the numbers of rows in each state."""

    time: Floats
    survival: Floats
    low: Floats
    high: Floats
    n_at_risk: NDArray[np.int64]
    n_events: NDArray[np.int64]
    n_censored: NDArray[np.int64]


class LogRank(NamedTuple):
    """A log-rank test: statistic, degrees of freedom, p value, and observed and expected events of every group."""

    chi2: float
    df: int
    p: float
    observed: Floats
    expected: Floats


def check_times(time: ArrayLike, event: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Return times as float64 and events as bool, both ``(n,)``.

    Raise if a time is negative or not finite, or an event is neither 0 nor 1.
    """
    times, events = np.asarray(time, dtype=np.float64), np.asarray(event)
    if times.ndim != 1 or not len(times) or events.shape != times.shape:
        raise ValueError(f"time and event have shapes {times.shape} and {events.shape}; expected (n,) of both, n > 0.")
    bad_rows = np.flatnonzero(~np.isfinite(times) | (times < 0))
    if len(bad_rows):
        raise ValueError(
            f"time: {len(bad_rows)} of {len(times)} are negative or missing, such as {times[bad_rows[0]]:g} in row "
            f"{bad_rows[0]}. Times are counted from the start of follow-up; correct these rows or leave them out."
        )
    if other := [value for value in events.tolist() if value not in (0, 1)]:
        raise ValueError(
            f"event: got {other[0]!r}; expected 1 or True where the event was seen, 0 or False where follow-up ended "
            "before it."
        )
    return times, events.astype(bool)


def concordance(time: ArrayLike, event: ArrayLike, risk: ArrayLike, strata: ArrayLike | None = None) -> float:
    """Return Harrell's c-index: the share of comparable pairs in which the earlier event has the higher risk.

    Two rows are comparable if one has the event before the time of the other, or when the other is censored. Two events
    at the same time are not comparable; equal risks count half. NaN if no pair is comparable.

    Parameters
    ----------
    time, event, risk
        Times, whether the event was seen, and risks, each ``(n,)``.
    strata
        Stratum of every row ``(n,)``; only rows of the same stratum are compared. Use it for risks of different models,
        which have different scales.
    """
    return float(weighted_concordance(time, event, risk, np.ones((1, np.size(time))), strata)[0])


def weighted_concordance(
    time: ArrayLike, event: ArrayLike, risk: ArrayLike, weights: NDArray[np.number], strata: ArrayLike | None = None
) -> Floats:
    """Return :func:`concordance` for every row of ``weights`` ``(n_sets, n)``, the numbers of times that a row counts.

    Bootstrap draws are such weights.
    """
    times, events = check_times(time, event)
    scores = np.asarray(risk, dtype=np.float64)
    if scores.shape != times.shape or np.isnan(scores).any():
        raise ValueError(
            f"risk: got shape {scores.shape} with {np.isnan(scores).sum()} NaN; expected {times.shape} and no NaN."
        )
    stratum = np.zeros(len(times)) if strata is None else np.unique(np.asarray(strata), return_inverse=True)[1]
    w = np.asarray(weights, dtype=np.float64)
    right, pairs = np.zeros(len(w)), np.zeros(len(w))
    with_event = np.flatnonzero(events)
    step = max(1, CHUNK // len(times))
    for rows in (with_event[i : i + step, None] for i in range(0, len(with_event), step)):
        later = (times > times[rows]) | ((times == times[rows]) & ~events)
        later &= stratum == stratum[rows]
        score = later * ((scores[rows] > scores) + 0.5 * (scores[rows] == scores))
        pairs += ((w[:, rows[:, 0]] @ later) * w).sum(1)
        right += ((w[:, rows[:, 0]] @ score) * w).sum(1)
    return np.divide(right, pairs, out=np.full(len(w), np.nan), where=pairs > 0)


def kaplan_meier(time: ArrayLike, event: ArrayLike, level: float = 0.95) -> Curve:
    """Return survival after every distinct time, with Greenwood's variance and bands on the log(-log) scale.

    Without events the curve stays at 1. The band is 1 before the first event, and NaN where survival is 0.
    """
    times, events = check_times(time, event)
    check_share("level", level)
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
    """Test whether groups differ in survival, by their observed and expected events.

    Groups are in sorted order. A group with nobody at risk at the first event has no degree of freedom. If nothing can
    differ, for example without events, p is NaN.
    """
    times, events = check_times(time, event)
    names, number = np.unique(np.asarray(group), return_inverse=True)
    if number.shape != times.shape or len(names) < 2:
        raise ValueError(
            f"group: got shape {number.shape}, number of groups {len(names)}; expected {times.shape} and at least 2."
        )
    moments, at = np.unique(times, return_inverse=True)
    n_rows, n_events = np.zeros((2, len(moments), len(names)))
    np.add.at(n_rows, (at, number), 1)
    np.add.at(n_events, (at, number), events)
    n = n_rows[::-1].cumsum(0)[::-1]
    has_event = n_events.sum(1) > 0
    n, died = n[has_event], n_events[has_event]
    total, d = n.sum(1), died.sum(1)
    share = n / total[:, None]
    expected = (d[:, None] * share).sum(0)
    factor = d * (total - d) / np.maximum(total - 1, 1)
    variance = np.diag((factor[:, None] * share).sum(0)) - (factor[:, None] * share).T @ share
    values, vectors = np.linalg.eigh(variance)
    not_zero = values > 1e-10 * max(1.0, float(values.max()))
    observed = died.sum(0)
    statistic = float((((observed - expected) @ vectors[:, not_zero]) ** 2 / values[not_zero]).sum())
    df = int(not_zero.sum())
    return LogRank(statistic, df, float(chi2_distribution.sf(statistic, df)) if df else np.nan, observed, expected)
