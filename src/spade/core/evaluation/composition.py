"""Shares of experts among the spots of each value of a column, compared with independence of the two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats
from spade.core.evaluation.intervals import bootstrap_weights, interval

#: Spots added to both sides of the enrichment, which stays finite for an expert without spots.
PSEUDOCOUNT = 0.5


@dataclass(frozen=True)
class Composition:
    """Arrays ``(V, E)`` of V values and E experts; bounds are NaN for a value that fewer than two units have."""

    share: Floats
    expected: Floats
    enrichment: Floats
    share_bounds: tuple[Floats, Floats]
    enrichment_bounds: tuple[Floats, Floats]


def composition(counts: NDArray[np.integer], n_boot: int, rng: np.random.Generator, level: float = 0.95) -> Composition:
    """Compare the shares of experts within each value with their shares over all values.

    Parameters
    ----------
    counts
        Spots ``(U, V, E)`` of every unit, value and expert.
    n_boot
        Bootstrap draws of units.
    rng
        Generator of the draws.
    level
        Level of the intervals.
    """
    n_units, n_values, n_experts = counts.shape
    counts = counts.astype(np.float64)
    share, expected, enrichment = _shares(counts.sum(0), counts.sum((0, 1)))
    weights = bootstrap_weights(n_units, n_boot, rng).astype(np.float64)
    overall = weights @ counts.sum(1)
    bounds = np.full((4, n_values, n_experts), np.nan)
    for value in range(n_values):  # one at a time: there may be as many as patients
        of_value = counts[:, value]
        if (of_value.sum(1) > 0).sum() > 1:
            drawn, _, enriched = _shares(weights @ of_value, overall)
            bounds[:2, value] = interval(drawn, level)
            bounds[2:, value] = interval(enriched, level)
    return Composition(
        share, np.broadcast_to(expected, share.shape), enrichment, (bounds[0], bounds[1]), (bounds[2], bounds[3])
    )


def _shares(counts: Floats, overall: Floats) -> tuple[Floats, Floats, Floats]:
    """Return share, expected share and log2 enrichment of counts of spots; NaN where there is no spot."""
    size = counts.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        share, expected = counts / size, overall / overall.sum(-1, keepdims=True)
    enrichment = np.log2((counts + PSEUDOCOUNT) / (size * expected + PSEUDOCOUNT))
    return share, expected, np.where(size > 0, enrichment, np.nan)
