"""Folds of the switchboard: which groups are held out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spade._samples.obs import check_groups
from spade.core.evaluation.episodes import Episode
from spade.core.evaluation.folds import section_folds, stratified_folds
from spade.core.expression.normalise import gene_scale
from spade.core.rng import numpy_stream
from spade.tl._expression.protocols import no_penalty
from spade.tl._switchboard.shared_spots import Fold, SharedSpots


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
        one = np.zeros(len(number), dtype=np.int64)
        fold_of = stratified_folds(number, one, 1, n_folds, numpy_stream(seed, "folds of the switchboard"))
        titles = [f"fold {i}" for i in range(n_folds)]
    return [_fold(shared, title, fold_of == i, shots, n_repeats, seed, i) for i, title in enumerate(titles)]


def _fold(
    shared: SharedSpots,
    name: str,
    held_out: NDArray[np.bool_],
    shots: Sequence[int],
    n_repeats: int,
    seed: int,
    index: int,
) -> Fold:
    train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    points = shared.points[train]
    inner = section_folds(shared.section[train], None if np.isnan(points).any() else points, shared.guard)
    if not inner:
        raise ValueError(no_penalty(shared.section[train][0]))
    draws = []
    if shared.classes:
        there = [train[shared.label[train] == c] for c in range(len(shared.classes))]
        if few := [
            f"{one!r} has {len(own)}" for one, own in zip(shared.classes, there, strict=True) if len(own) < shots[-1]
        ]:
            raise ValueError(
                f"with {name} held out, {', '.join(few)} labelled spots to learn from, but {shots[-1]} shots take as many of every class. "
                "Lower shots=, or leave the class without labels."
            )
        query = test[shared.label[test] >= 0]
        for repeat in range(n_repeats):
            rng = numpy_stream(seed, "shots of the switchboard", index * n_repeats + repeat)
            draws.append(Episode([rng.permutation(own) for own in there], query))
    return Fold(name, train, test, held_out, inner, *gene_scale(shared.y, train), draws)
