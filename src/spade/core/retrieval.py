"""Ranks of true pairs across modalities, and the chance levels they are held against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spade.core.routing import Floats

CHUNK = 4_096


def pair_ranks(query: Floats, gallery: Floats) -> NDArray[np.float64]:
    """Rank (from 1) of gallery row i for query row i by cosine similarity; ties share their mean rank."""
    unit_query, unit_gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery))
    ranks = np.empty(len(query))
    for start in range(0, len(query), CHUNK):
        similarity = unit_query[start : start + CHUNK] @ unit_gallery.T
        true = similarity[np.arange(len(similarity)), np.arange(start, start + len(similarity))][:, None]
        ranks[start : start + CHUNK] = 1 + (similarity > true).sum(1) + ((similarity == true).sum(1) - 1) / 2
    return ranks


def recall_at(ranks: Floats, k: int) -> float:
    """Share of queries whose true partner is among the first ``k``."""
    return float(np.mean(ranks <= k))


def ranks_within(query: Floats, gallery: Floats, groups: NDArray[np.integer]) -> NDArray[np.float64]:
    """As :func:`pair_ranks`, with the gallery of each query restricted to its own group."""
    ranks = np.empty(len(query))
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        ranks[rows] = pair_ranks(query[rows], gallery[rows])
    return ranks


def chance_recall(groups: NDArray[np.integer], k: int) -> float:
    """Expected recall@k of random ranks within groups; one group for all rows gives the plain level k/n."""
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return float(np.mean(np.minimum(1, k / counts[inverse])))


def chance_rank(groups: NDArray[np.integer]) -> float:
    """Median, over all rows, of ranks that are random within groups (which may differ in size)."""
    counts = np.unique(groups, return_counts=True)[1]
    ranks = np.arange(1, counts.max() + 1)
    below = np.sum(counts * np.minimum(1, ranks[:, None] / counts), axis=1) / counts.sum()
    return float(ranks[below >= 0.5 - 1e-12][0] + ranks[below > 0.5 + 1e-12][0]) / 2
