"""Nearest rows across modalities, ranks of true pairs, and the chance levels of these ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spade.core.arrays import Floats

#: Queries at a time.
CHUNK = 4_096
#: Rows of a gallery at a time.
GALLERY_CHUNK = 16_384
#: Least length by which a row is divided.
MIN_LENGTH = 1e-12


class Nearest:
    """The ``k`` rows of a gallery with the largest products with every query; exact.

    The gallery comes piece by piece, and memory holds only one piece.

    Parameters
    ----------
    query
        ``(n, d)``.
    k
        Number of rows; all rows of a gallery that has fewer.
    """

    def __init__(self, query: Floats, k: int) -> None:
        self.query, self.k = torch.from_numpy(np.ascontiguousarray(query, dtype=np.float32)), k
        self.scores, self.rows = torch.empty(len(query), 0), torch.empty(len(query), 0, dtype=torch.int64)
        self.seen = 0

    def update(self, gallery: Floats, groups: tuple[NDArray[np.integer], NDArray[np.integer]] | None = None) -> None:
        """Compare the queries with more rows of the gallery, ``(m, d)``.

        ``groups`` are the groups of the queries and of these rows; rows of the same group as the query are left out.
        """
        for start in range(0, len(gallery), GALLERY_CHUNK):
            piece = slice(start, start + GALLERY_CHUNK)
            block = torch.from_numpy(np.ascontiguousarray(gallery[piece], dtype=np.float32))
            of_both = None if groups is None else (groups[0], torch.from_numpy(groups[1][piece]))
            best = [
                self._best(slice(first, first + CHUNK), block, of_both) for first in range(0, len(self.query), CHUNK)
            ]
            self.scores, self.rows = (torch.cat(parts) for parts in zip(*best, strict=True))
            self.seen += len(block)

    def _best(
        self, queries: slice, block: torch.Tensor, groups: tuple[NDArray[np.integer], torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the best scores and rows of some queries after one more piece of the gallery."""
        scores = self.query[queries] @ block.T
        if groups is not None:
            scores[torch.from_numpy(groups[0][queries]).unsqueeze(1) == groups[1]] = -torch.inf
        top, rows = torch.topk(scores, min(self.k, len(block)), dim=1)
        top, rows = torch.cat([self.scores[queries], top], 1), torch.cat([self.rows[queries], rows + self.seen], 1)
        best = torch.argsort(top, dim=1, descending=True, stable=True)[:, : self.k]
        return top.gather(1, best), rows.gather(1, best)


def pair_ranks(query: Floats, gallery: Floats) -> NDArray[np.float64]:
    """Return the rank, from 1, of gallery row i for query row i by cosine similarity.

    Ties share their mean rank; a row of zeros ties with all rows.
    """
    unit_query, unit_gallery = (
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), MIN_LENGTH) for x in (query, gallery)
    )
    ranks = np.empty(len(query))
    for start in range(0, len(query), CHUNK):
        similarity = unit_query[start : start + CHUNK] @ unit_gallery.T
        true = similarity[np.arange(len(similarity)), np.arange(start, start + len(similarity))][:, None]
        ranks[start : start + CHUNK] = 1 + (similarity > true).sum(1) + ((similarity == true).sum(1) - 1) / 2
    return ranks


def recall_at(ranks: Floats, k: int) -> float:
    """Return the share of queries whose true partner is among the first ``k``."""
    return float(np.mean(ranks <= k))


def ranks_within(query: Floats, gallery: Floats, groups: NDArray[Any]) -> NDArray[np.float64]:
    """Return :func:`pair_ranks` with the gallery of each query restricted to its own group."""
    ranks = np.empty(len(query))
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        ranks[rows] = pair_ranks(query[rows], gallery[rows])
    return ranks


def group_sizes(groups: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number of rows in the group of every row."""
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return counts[inverse]


def chance_recall(sizes: NDArray[np.integer], k: int) -> float:
    """Return the expected recall@k of random ranks; ``sizes`` are the sizes of the galleries, one per query."""
    return float(np.mean(np.minimum(1, k / sizes)))


def chance_rank(sizes: NDArray[np.integer]) -> float:
    """Return the median of random ranks; ``sizes`` are the sizes of the galleries, one per query."""
    different, queries = np.unique(sizes, return_counts=True)
    ranks = np.arange(1, different.max() + 1)
    below = np.sum(queries * np.minimum(1, ranks[:, None] / different), axis=1) / queries.sum()
    return float(ranks[below >= 0.5 - 1e-12][0] + ranks[below > 0.5 + 1e-12][0]) / 2
