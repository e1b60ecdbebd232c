"""Folds of the switchboard: which groups are held out, and what is drawn from the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from spatialdata import SpatialData

from spade import _keys
from spade._samples.obs import check_groups
from spade.core.arrays import Floats, Rows
from spade.core.evaluation.episodes import Episode
from spade.core.evaluation.folds import end_of_section, stratified_folds
from spade.core.expression.normalise import gene_scale
from spade.core.rng import numpy_stream
from spade.tl._expression.protocols import no_penalty
from spade.tl._switchboard.shared_spots import SharedSpots

#: ``obs`` column of the training copies that says which spots are trained on.
SPLIT = _keys.split(_keys.STEM)
#: Share of a single training section that chooses the penalty.
PENALTY_SHARE = 1 / 3


@dataclass(frozen=True)
class Fold:
    """One division into training and held-out groups.

    Attributes
    ----------
    name
        The group that is held out, or the number of the fold.
    train, test
        Rows of the training and of the held-out groups.
    fitted
        Whether variants are trained on a row: on those of ``train`` that do not choose the ridge penalty.
    inner
        Positions within ``train``, to learn from and to choose the ridge penalty on, as one pair.
    mean, deviation
        Of every gene in training ``(G,)``.
    draws
        Labelled rows of ``train`` to learn classes from, and those of ``test``.
    """

    name: str
    train: Rows
    test: Rows
    fitted: NDArray[np.bool_]
    inner: list[tuple[Rows, Rows]]
    mean: Floats
    deviation: Floats
    draws: list[Episode]


def training_copies(shared: SharedSpots, fold: Fold) -> list[SpatialData]:
    """Return the copies that have spots to train on, marked in their column ``SPLIT``."""
    copies = []
    for i, sdata in enumerate(shared.samples):
        fitted = fold.fitted[shared.sample == i]
        if fitted.any():
            table = next(iter(sdata.tables.values()))
            table.obs[SPLIT] = np.where(fitted, _keys.TRAIN, _keys.TEST)
            copies.append(sdata)
    return copies


def deal_folds(
    shared: SharedSpots, groupby: str | None, n_folds: int | None, shots: Sequence[int], n_repeats: int, seed: int
) -> list[Fold]:
    """Hold out every group once, or ``n_folds`` parts of them of about equal size."""
    names = check_groups(shared.group.tolist(), groupby)
    number = np.searchsorted(names, shared.group)
    if n_folds is None:
        fold_of, titles = number, names
    elif n_folds > len(names):
        raise ValueError(f"n_folds={n_folds}: there are {len(names)} groups in obs[{groupby!r}]; take fewer folds.")
    else:
        one_class = np.zeros(len(number), dtype=np.int64)
        fold_of = stratified_folds(number, one_class, 1, n_folds, numpy_stream(seed, "folds of the switchboard"))
        titles = [f"fold {i}" for i in range(n_folds)]
    return [
        _fold(shared, title, fold_of == i, max_shots=shots[-1], n_repeats=n_repeats, seed=seed, index=i)
        for i, title in enumerate(titles)
    ]


def _fold(
    shared: SharedSpots,
    name: str,
    held_out: NDArray[np.bool_],
    *,
    max_shots: int,
    n_repeats: int,
    seed: int,
    index: int,
) -> Fold:
    train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    learned, choosing = _penalty_rows(shared, train)
    fitted = np.zeros(len(held_out), dtype=bool)
    fitted[train[learned]] = True
    draws = []
    if shared.classes:
        rows_of_class = _rows_of_classes(shared, train, max_shots, name)
        query = test[shared.label[test] >= 0]
        for repeat in range(n_repeats):
            rng = numpy_stream(seed, "shots of the switchboard", index * n_repeats + repeat)
            draws.append(Episode([rng.permutation(rows) for rows in rows_of_class], query))
    return Fold(name, train, test, fitted, [(learned, choosing)], *gene_scale(shared.y, train), draws)


def _penalty_rows(shared: SharedSpots, train: Rows) -> tuple[Rows, Rows]:
    """Return positions within ``train``: those that models and probe learn from, and those that choose the penalty.

    The latter are the section of median size, or the end of a single section, behind a guard band. No model is trained
    on them: a representation fits its training spots better than others, and a penalty chosen on these is too small.
    """
    names, first, sizes = np.unique(shared.section[train], return_index=True, return_counts=True)
    if len(names) > 1:
        chosen = shared.section[train] == names[np.lexsort((first, sizes))[(len(names) - 1) // 2]]
        return np.flatnonzero(~chosen), np.flatnonzero(chosen)
    points = shared.points[train]
    if np.isnan(points).any():
        raise ValueError(no_penalty(names[0]))
    learned, choosing = end_of_section(points, shared.patch, PENALTY_SHARE)
    if min(len(learned), len(choosing)) < 2:
        raise ValueError(
            f"{names[0]} is the only training section of a fold, and its {len(train)} spots are too few to hold out a "
            "third of it, behind a guard band, for the choice of the penalty. Add sections."
        )
    return learned, choosing


def _rows_of_classes(shared: SharedSpots, train: Rows, max_shots: int, name: str) -> list[Rows]:
    """Return the training rows of every class; raise if one has fewer than the shots."""
    rows_of_class = [train[shared.label[train] == c] for c in range(len(shared.classes))]
    if few := [
        f"{label!r} has {len(rows)}"
        for label, rows in zip(shared.classes, rows_of_class, strict=True)
        if len(rows) < max_shots
    ]:
        raise ValueError(
            f"with {name} held out, {', '.join(few)} labelled spots to learn from, fewer than shots={max_shots}. Lower "
            "shots=, or leave the class without labels."
        )
    return rows_of_class
