"""How much of each patch the polygons of each label cover; geometry only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from spade.core.arrays import Floats, Rows

#: Shares, and areas relative to the smallest, that differ by less than this are equal.
TIE = 1e-6
#: Smaller shares of a square, of outlines that only touch it, count as 0.
MIN_SHARE = 1e-9


@dataclass(frozen=True)
class Cover:
    """Pairs of a patch and a label that covers part of it; ``area`` is the total area of the outlines that do."""

    patch: Rows
    label: Rows
    share: Floats
    area: Floats

    def take(self, keep: NDArray[np.bool_]) -> Cover:
        """Return the pairs to keep."""
        return Cover(self.patch[keep], self.label[keep], self.share[keep], self.area[keep])


def unite(polygons: NDArray[np.object_], labels: Rows) -> tuple[NDArray[np.object_], Rows]:
    """Return outlines that do not overlap others of the same label, and the label of each."""
    names = np.unique(labels)
    outlines = [shapely.get_parts(shapely.union_all(polygons[labels == label])) for label in names]
    return np.concatenate(outlines), np.repeat(names, [len(parts) for parts in outlines])


def cover(squares: NDArray[np.object_], outlines: NDArray[np.object_], labels: Rows) -> Cover:
    """Return the share of each square that each label covers; outlines of one label must not overlap."""
    outline, square = shapely.STRtree(squares).query(outlines, predicate="intersects")
    sizes = shapely.area(squares)
    covered = sizes[square]
    shapely.prepare(outlines)
    crossing = ~shapely.covers(outlines[outline], squares[square])
    covered[crossing] = shapely.area(shapely.intersection(outlines[outline[crossing]], squares[square[crossing]]))
    overlapping = covered > MIN_SHARE * sizes[square]
    outline, square, covered = outline[overlapping], square[overlapping], covered[overlapping]
    return _by_label(square, labels[outline], covered / sizes[square], shapely.area(outlines)[outline])


def at(points: NDArray[np.object_], outlines: NDArray[np.object_], labels: Rows) -> Cover:
    """Return the labels that cover each point; their share is 1."""
    outline, point = shapely.STRtree(points).query(outlines, predicate="intersects")
    return _by_label(point, labels[outline], np.ones(len(point)), shapely.area(outlines)[outline])


def choose(pairs: Cover, n: int) -> Rows:
    """Return the label of each patch (-1: none): that of largest share, then of smallest area, then the first."""
    best = np.full(n, -np.inf)
    np.maximum.at(best, pairs.patch, pairs.share)
    pairs = pairs.take(pairs.share >= best[pairs.patch] - TIE)
    smallest = np.full(n, np.inf)
    np.minimum.at(smallest, pairs.patch, pairs.area)
    pairs = pairs.take(pairs.area <= smallest[pairs.patch] * (1 + TIE))
    none = np.iinfo(np.int64).max
    chosen = np.full(n, none)
    np.minimum.at(chosen, pairs.patch, pairs.label)
    return np.where(chosen == none, -1, chosen)


def share_of(pairs: Cover, chosen: Rows) -> Floats:
    """Return the share of each patch that its label covers, NaN without one."""
    shares = np.where(chosen < 0, np.nan, 0.0)
    pairs = pairs.take(chosen[pairs.patch] == pairs.label)
    shares[pairs.patch] = np.minimum(pairs.share, 1)
    return shares


def _by_label(patch: Rows, label: Rows, share: Floats, area: Floats) -> Cover:
    """Add up the outlines of one label on one patch."""
    n_labels = int(label.max(initial=0)) + 1
    pairs, pair_of_row = np.unique(patch * n_labels + label, return_inverse=True)
    shares, areas = (
        np.bincount(pair_of_row, weights=values, minlength=len(pairs)).astype(np.float64) for values in (share, area)
    )
    return Cover(pairs // n_labels, pairs % n_labels, shares, areas)
