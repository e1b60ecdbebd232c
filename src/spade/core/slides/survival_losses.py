"""Losses of survival models: Cox's partial likelihood and discrete-time hazards."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn.functional import logsigmoid

from spade.core.arrays import Floats
from spade.core.slides.survival import check_times

TIES = ("efron", "breslow")


def cox_loss(risk: torch.Tensor, time: torch.Tensor, event: torch.Tensor, ties: str = "efron") -> torch.Tensor:
    """Negative log partial likelihood of Cox, averaged over events.

    All rows are compared with each other, so they must come together, not in batches of one. A row that is censored at the time of
    an event is still at risk.

    Parameters
    ----------
    risk
        Log risk ``(n,)``.
    time
        ``(n,)``.
    event
        Bool ``(n,)``.
    ties
        Events at one time: ``"efron"`` or ``"breslow"``.
    """
    if ties not in TIES:
        raise ValueError(f'ties={ties!r}: expected "efron" or "breslow".')
    if risk.ndim != 1 or not risk.shape == time.shape == event.shape:
        shapes = ", ".join(str(tuple(one.shape)) for one in (risk, time, event))
        raise ValueError(f"risk, time and event have shapes {shapes}; expected (n,) of each.")
    event = event.bool()
    if not event.any():
        raise ValueError("event: no row has the event, so there is nothing to compare; take more rows at once.")
    order = torch.argsort(time, descending=True, stable=True)
    risk, event = risk[order], event[order]
    _, moment, counts = torch.unique_consecutive(time[order], return_inverse=True, return_counts=True)
    at_risk = torch.logcumsumexp(risk, 0)[counts.cumsum(0) - 1]
    own, moment = risk[event], moment[event]
    total = at_risk[moment]
    if ties == "efron":
        n_tied = torch.bincount(moment, minlength=len(at_risk))
        before = torch.arange(len(moment), device=risk.device) - (n_tied.cumsum(0) - n_tied)[moment]
        share = torch.zeros_like(at_risk).index_add(0, moment, torch.exp(own - total))  # of the tied, at most 1
        total = total + torch.log1p(-before.to(risk.dtype) / n_tied[moment] * share[moment])
    return (total - own).mean()


def discrete_bins(time: ArrayLike, event: ArrayLike, n_bins: int) -> Floats:
    """Return the ``(n_bins - 1,)`` inner edges of time bins that each have an event, and numbers of them as alike as ties allow.

    Edges are event times, near the quantiles; a time on an edge is in the later bin.
    """
    times, events = check_times(time, event)
    if isinstance(n_bins, bool) or n_bins != int(n_bins) or n_bins < 2:
        raise ValueError(f"n_bins={n_bins!r}: expected a whole number of at least 2.")
    moments, counts = np.unique(times[events], return_counts=True)
    if len(moments) < n_bins:
        raise ValueError(
            f"n_bins={n_bins}: {counts.sum()} events at {len(moments)} distinct times cannot give each bin one. Lower n_bins=, or take more "
            "patients."
        )
    before = counts.cumsum() - counts
    at = 0
    edges = []
    for k in range(1, n_bins):
        open_ = np.arange(at + 1, len(moments) - (n_bins - 1 - k))
        at = int(open_[np.abs(before[open_] - k * counts.sum() / n_bins).argmin()])
        edges.append(moments[at])
    return np.array(edges)


def time_bins(time: ArrayLike, edges: Floats) -> NDArray[np.int64]:
    """Return the bin of every time, ``(n,)``."""
    return np.searchsorted(edges, np.asarray(time, dtype=np.float64), side="right")


def discrete_nll(logits: torch.Tensor, bin: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
    """Negative log likelihood of discrete hazards, averaged over rows.

    The hazard of a bin, given survival up to it, is the sigmoid of its logit. An event in bin k means survival of the bins before and
    the event in k; a row censored in bin k counts as having survived it.

    Parameters
    ----------
    logits
        ``(n, n_bins)``.
    bin
        Whole numbers ``(n,)`` below ``n_bins``.
    event
        Bool ``(n,)``.
    """
    if logits.ndim != 2 or not bin.shape == event.shape == logits.shape[:1]:
        shapes = ", ".join(str(tuple(one.shape)) for one in (logits, bin, event))
        raise ValueError(f"logits, bin and event have shapes {shapes}; expected (n, n_bins), (n,) and (n,).")
    bin, event = bin.long()[:, None], event.bool()[:, None]
    k = torch.arange(logits.shape[1], device=logits.device)
    survived = (k < bin) | ((k == bin) & ~event)
    zero = logits.new_zeros(())
    logs = torch.where(survived, logsigmoid(-logits), zero) + torch.where((k == bin) & event, logsigmoid(logits), zero)
    return -logs.sum(1).mean()


def discrete_risk(logits: torch.Tensor) -> torch.Tensor:
    """Return one risk per row of logits ``(..., n_bins)``: minus the expected number of bins survived."""
    return -logsigmoid(-logits).cumsum(-1).exp().sum(-1)
