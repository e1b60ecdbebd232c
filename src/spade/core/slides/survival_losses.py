"""Losses of survival models: Cox's partial likelihood and discrete-time hazards."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn.functional import logsigmoid

from spade.core.arrays import Floats
from spade.core.checks import check_choice, check_count
from spade.core.slides.survival import check_times

TIES = ("efron", "breslow")


def cox_loss(risk: torch.Tensor, time: torch.Tensor, event: torch.Tensor, ties: str = "efron") -> torch.Tensor:
    """Return the negative log partial likelihood of a Cox model, averaged over events.

    The loss compares rows with each other, so all must come in one batch. A row that is censored at the time of an
    event is still at risk.

    Parameters
    ----------
    risk, time
        Log risks and times ``(n,)``.
    event
        Whether the event was seen, bool ``(n,)``.
    ties
        Treatment of events at the same time: ``"efron"`` or ``"breslow"``.
    """
    check_choice("ties", ties, TIES)
    if risk.ndim != 1 or not risk.shape == time.shape == event.shape:
        shapes = ", ".join(str(tuple(values.shape)) for values in (risk, time, event))
        raise ValueError(f"risk, time and event have shapes {shapes}; expected (n,) of each.")
    event = event.bool()
    if not event.any():
        raise ValueError("event: no row has the event, so there is nothing to compare; use more rows.")
    order = torch.argsort(time, descending=True, stable=True)
    risk, event = risk[order], event[order]
    _, moment, counts = torch.unique_consecutive(time[order], return_inverse=True, return_counts=True)
    at_risk = torch.logcumsumexp(risk, 0)[counts.cumsum(0) - 1]
    risk_of_event, moment = risk[event], moment[event]
    total = at_risk[moment]
    if ties == "efron":
        n_tied = torch.bincount(moment, minlength=len(at_risk))
        before = torch.arange(len(moment), device=risk.device) - (n_tied.cumsum(0) - n_tied)[moment]
        share = torch.zeros_like(at_risk).index_add(0, moment, torch.exp(risk_of_event - total))  # of tied, at most 1
        total = total + torch.log1p(-before.to(risk.dtype) / n_tied[moment] * share[moment])
    return (total - risk_of_event).mean()


def discrete_bins(time: ArrayLike, event: ArrayLike, n_bins: int) -> Floats:
    """Return the inner edges ``(n_bins - 1,)`` of time bins, each with events, and with similar numbers of events.

    Edges are event times near the quantiles. A time on an edge is in the later bin.
    """
    times, events = check_times(time, event)
    check_count("n_bins", n_bins, 2)
    moments, counts = np.unique(times[events], return_counts=True)
    if len(moments) < n_bins:
        raise ValueError(
            f"n_bins={n_bins} is more than the number of distinct times of events, {len(moments)}, so some bins would "
            "have none. Lower n_bins=, or take more patients."
        )
    before = counts.cumsum() - counts
    at = 0
    edges = []
    for k in range(1, n_bins):
        possible = np.arange(at + 1, len(moments) - (n_bins - 1 - k))
        at = int(possible[np.abs(before[possible] - k * counts.sum() / n_bins).argmin()])
        edges.append(moments[at])
    return np.array(edges)


def time_bins(time: ArrayLike, edges: Floats) -> NDArray[np.int64]:
    """Return the bin of every time, ``(n,)``."""
    return np.searchsorted(edges, np.asarray(time, dtype=np.float64), side="right")


def discrete_nll(logits: torch.Tensor, bin: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
    """Return the negative log likelihood of discrete hazards, averaged over rows.

    The hazard of a bin, given survival up to it, is the sigmoid of its logit. A row with the event in bin k survives
    all bins before k and has the event in k; a row that is censored in bin k counts as having survived it.

    Parameters
    ----------
    logits
        Logits of the hazards ``(n, n_bins)``.
    bin
        Bin of every row ``(n,)``, from 0 to below ``n_bins``.
    event
        Whether the event was seen, bool ``(n,)``.
    """
    if logits.ndim != 2 or not bin.shape == event.shape == logits.shape[:1]:
        shapes = ", ".join(str(tuple(values.shape)) for values in (logits, bin, event))
        raise ValueError(f"logits, bin and event have shapes {shapes}; expected (n, n_bins), (n,) and (n,).")
    bin, event = bin.long()[:, None], event.bool()[:, None]
    k = torch.arange(logits.shape[1], device=logits.device)
    survived = (k < bin) | ((k == bin) & ~event)
    zero = logits.new_zeros(())
    logs = torch.where(survived, logsigmoid(-logits), zero) + torch.where((k == bin) & event, logsigmoid(logits), zero)
    return -logs.sum(1).mean()


def discrete_risk(logits: torch.Tensor) -> torch.Tensor:
    """Return the risk of every row of logits ``(..., n_bins)``: minus the expected number of bins survived."""
    return -logsigmoid(-logits).cumsum(-1).exp().sum(-1)
