"""Nearest rows across modalities, ranks of true pairs, and the chance levels they are held against."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spade.core.arrays import Floats

CHUNK = 4_096
#: Rows of a gallery that queries are compared with at a time.
GALLERY_CHUNK = 16_384
#: Least length that a row is divided by.
TINY = 1e-12


class Nearest:
    """The best ``k`` rows of a gallery that comes piece by piece, for every query: exact, in memory for one piece.

    Parameters
    ----------
    query
        ``(n, d)``.
    k
        How many; all, if the gallery has no more.
    """

    def __init__(self, query: Floats, k: int) -> None:
        self.query, self.k = torch.from_numpy(np.ascontiguousarray(query, dtype=np.float32)), k
        self.scores, self.rows = torch.empty(len(query), 0), torch.empty(len(query), 0, dtype=torch.int64)
        self.seen = 0

    def update(self, gallery: Floats, groups: tuple[NDArray[np.integer], NDArray[np.integer]] | None = None) -> None:
        """Compare with more rows ``(m, d)``; of ``groups`` (of queries, of these rows) equal ones are passed over."""
        for start in range(0, len(gallery), GALLERY_CHUNK):
            block = torch.from_numpy(np.ascontiguousarray(gallery[start : start + GALLERY_CHUNK], dtype=np.float32))
            own = None if groups is None else torch.from_numpy(groups[1][start : start + GALLERY_CHUNK])
            found = [
                self._best(
                    slice(first, first + CHUNK), block, None if own is None or groups is None else (groups[0], own)
                )
                for first in range(0, len(self.query), CHUNK)
            ]
            self.scores, self.rows = (torch.cat(parts) for parts in zip(*found, strict=True))
            self.seen += len(block)

    def _best(
        self, some: slice, block: torch.Tensor, groups: tuple[NDArray[np.integer], torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Join the best of a piece to the best so far."""
        scores = self.query[some] @ block.T
        if groups is not None:
            scores[torch.from_numpy(groups[0][some]).unsqueeze(1) == groups[1]] = -torch.inf
        top, rows = torch.topk(scores, min(self.k, len(block)), dim=1)
        top, rows = torch.cat([self.scores[some], top], 1), torch.cat([self.rows[some], rows + self.seen], 1)
        best = torch.argsort(top, dim=1, descending=True, stable=True)[:, : self.k]
        return top.gather(1, best), rows.gather(1, best)


def pair_ranks(query: Floats, gallery: Floats) -> NDArray[np.float64]:
    """Rank (from 1) of gallery row i for query row i by cosine similarity; ties share their mean rank, and a row of zeros ties with all."""
    unit_query, unit_gallery = (
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), TINY) for x in (query, gallery)
    )
    ranks = np.empty(len(query))
    for start in range(0, len(query), CHUNK):
        similarity = unit_query[start : start + CHUNK] @ unit_gallery.T
        true = similarity[np.arange(len(similarity)), np.arange(start, start + len(similarity))][:, None]
        ranks[start : start + CHUNK] = 1 + (similarity > true).sum(1) + ((similarity == true).sum(1) - 1) / 2
    return ranks


def recall_at(ranks: Floats, k: int) -> float:
    """Share of queries whose true partner is among the first ``k``."""
    return float(np.mean(ranks <= k))


def ranks_within(query: Floats, gallery: Floats, groups: NDArray[Any]) -> NDArray[np.float64]:
    """As :func:`pair_ranks`, with the gallery of each query restricted to its own group."""
    ranks = np.empty(len(query))
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        ranks[rows] = pair_ranks(query[rows], gallery[rows])
    return ranks


def group_sizes(groups: NDArray[Any]) -> NDArray[np.int64]:
    """Number of rows in the group of every row."""
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return counts[inverse]


def chance_recall(sizes: NDArray[np.integer], k: int) -> float:
    """Expected recall@k of random ranks in galleries of these sizes, one per query."""
    return float(np.mean(np.minimum(1, k / sizes)))


def chance_rank(sizes: NDArray[np.integer]) -> float:
    """Median, over all queries, of ranks that are random in galleries of these sizes, one per query."""
    different, queries = np.unique(sizes, return_counts=True)
    ranks = np.arange(1, different.max() + 1)
    below = np.sum(queries * np.minimum(1, ranks[:, None] / different), axis=1) / queries.sum()
    return float(ranks[below >= 0.5 - 1e-12][0] + ranks[below > 0.5 + 1e-12][0]) / 2
