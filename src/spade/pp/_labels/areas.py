"""Which label's polygons cover which patch, and how much of it: geometry alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

#: Shares, and areas relative to the smallest, that differ by less are equal.
TIE = 1e-6
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Cover:
    """Pairs of a patch and a label that covers some of it; ``area`` is that of the label's outlines that do."""

    patch: Ints
    label: Ints
    share: Floats
    area: Floats

    def take(self, keep: NDArray[np.bool_]) -> Cover:
        """Return some of the pairs."""
        return Cover(self.patch[keep], self.label[keep], self.share[keep], self.area[keep])


def unite(polygons: NDArray[np.object_], labels: Ints) -> tuple[NDArray[np.object_], Ints]:
    """Return outlines that do not overlap others of their label, and the label of each."""
    outlines = [shapely.get_parts(shapely.union_all(polygons[labels == label])) for label in np.unique(labels)]
    return np.concatenate(outlines), np.repeat(np.unique(labels), [len(parts) for parts in outlines])


def cover(squares: NDArray[np.object_], outlines: NDArray[np.object_], labels: Ints) -> Cover:
    """Return which share of each square each label covers; outlines of one label must not overlap."""
    outline, square = shapely.STRtree(squares).query(outlines, predicate="intersects")
    sizes = shapely.area(squares)
    covered = sizes[square]
    shapely.prepare(outlines)
    crossing = ~shapely.covers(outlines[outline], squares[square])
    covered[crossing] = shapely.area(shapely.intersection(outlines[outline[crossing]], squares[square[crossing]]))
    some = covered > 1e-9 * sizes[square]  # not those that only touch
    outline, square, covered = outline[some], square[some], covered[some]
    return _by_label(square, labels[outline], covered / sizes[square], shapely.area(outlines)[outline])


def at(points: NDArray[np.object_], outlines: NDArray[np.object_], labels: Ints) -> Cover:
    """Return which labels cover each point; their share is 1."""
    outline, point = shapely.STRtree(points).query(outlines, predicate="intersects")
    return _by_label(point, labels[outline], np.ones(len(point)), shapely.area(outlines)[outline])


def choose(pairs: Cover, n: int) -> Ints:
    """Return the label of each patch (-1: none): the largest share, then the smaller area, then the first label."""
    best = np.full(n, -np.inf)
    np.maximum.at(best, pairs.patch, pairs.share)
    pairs = pairs.take(pairs.share >= best[pairs.patch] - TIE)
    least = np.full(n, np.inf)
    np.minimum.at(least, pairs.patch, pairs.area)
    pairs = pairs.take(pairs.area <= least[pairs.patch] * (1 + TIE))
    none = np.iinfo(np.int64).max
    chosen = np.full(n, none)
    np.minimum.at(chosen, pairs.patch, pairs.label)
    return np.where(chosen == none, -1, chosen)


def share_of(pairs: Cover, chosen: Ints) -> Floats:
    """Return the share of each patch that its label covers, NaN without one."""
    shares = np.where(chosen < 0, np.nan, 0.0)
    mine = pairs.take(chosen[pairs.patch] == pairs.label)
    shares[mine.patch] = np.minimum(mine.share, 1)
    return shares


def _by_label(patch: Ints, label: Ints, share: Floats, area: Floats) -> Cover:
    """Add up the outlines of one label on one patch."""
    width = int(label.max(initial=0)) + 1
    pairs, where = np.unique(patch * width + label, return_inverse=True)
    shares, sizes = (
        np.bincount(where, weights=values, minlength=len(pairs)).astype(np.float64) for values in (share, area)
    )
    return Cover(pairs // width, pairs % width, shares, sizes)
