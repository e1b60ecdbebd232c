"""Shares of experts in the values of a column, against what independence of the two would give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spade.core.evaluation.intervals import bootstrap_weights, interval

Floats = NDArray[np.floating]
#: Spots added to both sides of the enrichment, so that an absent expert is no infinity.
HALF = 0.5


@dataclass(frozen=True)
class Composition:
    """Arrays ``(V, E)`` of V values and E experts; bounds are NaN where fewer than two units have the value."""

    share: Floats
    expected: Floats
    enrichment: Floats
    share_bounds: tuple[Floats, Floats]
    enrichment_bounds: tuple[Floats, Floats]


def composition(counts: NDArray[np.integer], n_boot: int, rng: np.random.Generator, level: float = 0.95) -> Composition:
    """Compare the experts' shares within each value with those over all values.

    Parameters
    ----------
    counts
        Spots ``(U, V, E)`` of every unit, value and expert.
    n_boot
        Draws of units.
    rng
        Draws them.
    level
        Of the intervals.
    """
    n_units, n_values, n_experts = counts.shape
    counts = counts.astype(np.float64)
    share, expected, enrichment = _shares(counts.sum(0), counts.sum((0, 1)))
    weights = bootstrap_weights(n_units, n_boot, rng).astype(np.float64)
    overall = weights @ counts.sum(1)
    bounds = np.full((4, n_values, n_experts), np.nan)
    for value in range(n_values):  # one at a time: there may be as many as patients
        own = counts[:, value]
        if (own.sum(1) > 0).sum() > 1:
            drawn, _, enriched = _shares(weights @ own, overall)
            bounds[:2, value] = interval(drawn, level)
            bounds[2:, value] = interval(enriched, level)
    return Composition(
        share, np.broadcast_to(expected, share.shape), enrichment, (bounds[0], bounds[1]), (bounds[2], bounds[3])
    )


def _shares(own: Floats, overall: Floats) -> tuple[Floats, Floats, Floats]:
    """Return share, expected share and log2 enrichment; NaN where there is no spot."""
    size = own.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        share, expected = own / size, overall / overall.sum(-1, keepdims=True)
    enrichment = np.log2((own + HALF) / (size * expected + HALF))
    return share, expected, np.where(size > 0, enrichment, np.nan)
