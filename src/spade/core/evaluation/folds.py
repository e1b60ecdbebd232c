"""Folds that share no group, such as a patient, and hold the classes in similar shares; and folds of sections."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from spade.core.arrays import Floats, Rows
from spade.core.evaluation.metrics import Labels
from spade.core.spots.blocks import guard_band, too_near


def groups_per_class(groups: Labels, y: Labels, n_classes: int) -> NDArray[np.int64]:
    """Return the number of groups that have a row of each class, ``(n_classes,)``."""
    return np.array([len(np.unique(groups[y == k])) for k in range(n_classes)])


def stratified_folds(
    groups: Labels, y: Labels, n_classes: int, n_folds: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the fold of every row, ``(n,)``; all rows of a group are in the same fold.

    Groups with the rarest class come first, larger groups before smaller ones, in random order among equals. Each group
    goes to the fold that has the least of its classes and, among equals, the fewest rows.
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


def quantile_strata(values: Floats, groups: Labels, most: int) -> NDArray[np.int64]:
    """Return for every row ``(n,)`` the quantile that the mean value of its group is in, of at most ``most``.

    Quantiles hold like numbers of groups, and equal means are in the same one.
    """
    number = np.unique(groups, return_inverse=True)[1]
    means = np.bincount(number, values) / np.bincount(number)
    below = (rankdata(means, method="min") - 1) / len(means)
    return np.unique(np.floor(below * min(most, len(means)) + 1e-9).astype(np.int64), return_inverse=True)[1][number]


def inner_split(
    groups: Labels, y: Labels, n_classes: int, share: float, rng: np.random.Generator
) -> NDArray[np.bool_] | None:
    """Return a mask ``(n,)`` of validation rows: about ``share`` of the groups of each class, and only whole groups.

    None if the training or the validation rows lack a class.
    """
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


def end_of_section(points: Floats, patch: float, share: float) -> tuple[Rows, Rows]:
    """Return training and test rows of one section: the test rows are ``share`` of it, at one end of its longer side.

    Training rows within the :func:`~spade.core.spots.blocks.guard_band` of patches with side ``patch`` are left out.
    """
    longer = points[:, int(np.argmax(np.ptp(points, axis=0)))]
    return _guarded(points, longer > np.quantile(longer, 1 - share), patch)


def halves(points: Floats, patch: float) -> list[tuple[Rows, Rows]]:
    """Return two folds of one section, cut across its longer side, as training and test rows; see end_of_section."""
    longer = points[:, int(np.argmax(np.ptp(points, axis=0)))]
    upper = longer > np.median(longer)
    return [_guarded(points, test, patch) for test in (upper, ~upper)]


def _guarded(points: Floats, test: NDArray[np.bool_], patch: float) -> tuple[Rows, Rows]:
    """Return training rows outside of the guard band, and test rows."""
    near = too_near(points[~test], points[test], guard_band(points, patch))
    return np.flatnonzero(~test)[~near], np.flatnonzero(test)


def section_folds(section: NDArray[np.str_], points: Floats | None, patch: float) -> list[tuple[Rows, Rows]]:
    """Return one fold per section, which is the test rows; a single section is cut into :func:`halves`.

    ``patch`` is the side of a patch in the unit of ``points``. The list is empty if a single section has no ``points``,
    or too few for two halves.
    """
    names = np.unique(section)
    if len(names) > 1:
        return [(np.flatnonzero(section != name), np.flatnonzero(section == name)) for name in names]
    if points is None:
        return []
    return [(train, test) for train, test in halves(points, patch) if len(train) > 1 and len(test) > 1]
