"""Folds of slides that share no patient and have the classes in like shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats, Rows
from spade.core.spots.blocks import too_near

Ints = NDArray[np.integer]


def groups_per_class(groups: Ints, y: Ints, n_classes: int) -> NDArray[np.int64]:
    """Number of groups that have a row of each class, ``(n_classes,)``."""
    return np.array([len(np.unique(groups[y == k])) for k in range(n_classes)])


def stratified_folds(
    groups: Ints, y: Ints, n_classes: int, n_folds: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the fold of every row, ``(n,)``; the rows of a group are all in one.

    Groups are dealt in random order, those of the rarest class and the largest first, each to the fold that has least of its
    classes, and of those to the one with the fewest rows.
    """
    names, number = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), n_classes))
    np.add.at(counts, (number, y), 1)
    with_class = (counts > 0).sum(0)
    rarest = np.where(counts > 0, with_class, len(names) + 1).min(1)
    order = rng.permutation(len(names))
    order = order[np.lexsort((-counts[order].sum(1), rarest[order]))]
    weight = counts / np.maximum(counts.sum(0), 1) ** 2
    filled, fold_of = np.zeros((n_folds, n_classes)), np.zeros(len(names), dtype=np.int64)
    for g in order:
        tried = rng.permutation(n_folds)
        best = tried[np.lexsort((filled[tried].sum(1), (filled[tried] * weight[g]).sum(1).round(12)))[0]]
        filled[best] += counts[g]
        fold_of[g] = best
    return fold_of[number]


def inner_split(
    groups: Ints, y: Ints, n_classes: int, share: float, rng: np.random.Generator
) -> NDArray[np.bool_] | None:
    """Return which rows validate, about ``share`` of the groups of each class and none that trains; None if a part lacks a class."""
    names, number = np.unique(groups, return_inverse=True)
    has = np.zeros((len(names), n_classes), dtype=bool)
    has[number, y] = True
    total = has.sum(0)
    wanted = np.maximum(np.round(share * total), 1)
    chosen = np.zeros(len(names), dtype=bool)
    for g in rng.permutation(len(names)):
        taken = has[chosen].sum(0)
        leaves_some = (taken + 1 < total)[has[g]].all()
        chosen[g] = leaves_some and (taken < wanted)[has[g]].any()
    return chosen[number] if has[chosen].any(0).all() and has[~chosen].any(0).all() else None


def halves(points: Floats, guard: float) -> list[tuple[Rows, Rows]]:
    """Two folds of one section, cut across its longer side; training rows within ``guard`` of a test row are left out."""
    side = points[:, int(np.argmax(np.ptp(points, axis=0)))]
    upper = side > np.median(side)
    folds = []
    for test in (upper, ~upper):
        near = too_near(points[~test], points[test], guard)
        folds.append((np.flatnonzero(~test)[~near], np.flatnonzero(test)))
    return folds


def section_folds(section: NDArray[np.str_], points: Floats | None, guard: float) -> list[tuple[Rows, Rows]]:
    """Leave one section out; of a single one, halves. Empty if that takes ``points`` that are not known."""
    names = np.unique(section)
    if len(names) > 1:
        return [(np.flatnonzero(section != name), np.flatnonzero(section == name)) for name in names]
    if points is None:
        return []
    return [(train, test) for train, test in halves(points, guard) if len(train) > 1 and len(test) > 1]
