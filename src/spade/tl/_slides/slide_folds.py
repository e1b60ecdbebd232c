"""Folds of labelled slides: dealt by patient, or given in a column."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from spade._checks import plural, shorten
from spade.core.arrays import Rows
from spade.core.evaluation.folds import groups_per_class, stratified_folds
from spade.core.rng import numpy_stream
from spade.tl._slides.slides import Slides
from spade.tl._slides.task.targets import CLASSES, CONTINUOUS


class SlideFolds(NamedTuple):
    """Names of the folds, and the number of the fold of every slide; -1: no label."""

    names: list[str]
    of_slide: Rows

    def split(self, fold: int, slides: Slides) -> tuple[Rows, Rows]:
        """Return the labelled slides outside a fold, to learn from, and those inside, to predict."""
        inside = self.of_slide[slides.labelled] == fold
        return slides.labelled[~inside], slides.labelled[inside]

    def trainings(self, slides: Slides) -> Iterator[tuple[str, str, Rows]]:
        """Yield how messages on the slides to learn from begin, what to do if these are few, and the slides."""
        for f, name in enumerate(self.names):
            yield f"{name}: the other folds have", "Lower shots=, change n_folds=", self.split(f, slides)[0]
        if not self.names and slides.cohorts is not None:
            yield f"train_on={shorten(slides.cohorts.train_on)} has", "Lower shots=", slides.labelled


def given_folds(slides: Slides, fold_key: str) -> SlideFolds:
    """Folds of a column, each patient in one."""
    fold = slides.bags.facts["fold_key"]
    if lacking := [slides.bags.names[i] for i in slides.labelled if not fold[i]]:
        raise ValueError(f"fold_key={fold_key!r} is missing for {slides.unit}s {shorten(lacking)}. Fill it in.")
    folds_of: dict[str, set[str]] = {}
    for i in slides.labelled:
        folds_of.setdefault(slides.group[i], set()).add(fold[i])
    if several := [group for group, folds in folds_of.items() if len(folds) > 1]:
        raise ValueError(
            f"fold_key={fold_key!r}: the slides of {shorten(several)} are in several folds, such as "
            f"{shorten(sorted(folds_of[several[0]]))}. Put all slides of a patient into one fold."
        )
    names = sorted(set(fold[slides.labelled].tolist()))
    if len(names) < 2:
        raise ValueError(f"fold_key={fold_key!r}: all slides are in fold {names[0]!r}; expected at least two folds.")
    return SlideFolds(names, np.where(slides.y >= 0, np.searchsorted(names, fold), -1))


def deal_slide_folds(slides: Slides, n_folds: int, seed: int) -> SlideFolds:
    """Deal patients into folds (0: none) with like shares of the classes, grades or quantiles of the target."""
    if not n_folds:
        return SlideFolds([], np.full(len(slides.y), -1))
    groups = slides.group_numbers(slides.labelled)
    n_groups = len(np.unique(groups))
    if n_groups < n_folds:
        raise ValueError(
            f"n_folds={n_folds}: there {'is' if n_groups == 1 else 'are'} {plural(n_groups, 'patient')} with labels. "
            "Take fewer folds, or pass groupby=None if slides are independent of each other."
        )
    rng = numpy_stream(seed, "folds of slides")
    of_slide = np.full(len(slides.y), -1)
    strata, n_strata = slides.strata(slides.labelled, max(1, n_groups // n_folds))
    of_slide[slides.labelled] = stratified_folds(groups, strata, n_strata, n_folds, rng)
    return SlideFolds([f"fold {f}" for f in range(n_folds)], of_slide)


def check_slide_folds(slides: Slides, folds: SlideFolds, most_shots: int) -> None:
    """Raise unless every fold has two classes, and heads have enough slides of every class to learn from."""
    if slides.kind == CONTINUOUS:
        return _check_numbers(slides, folds, most_shots)
    n_classes, least = len(slides.classes), max(1, most_shots)
    patients = groups_per_class(slides.group_numbers(slides.labelled), slides.y[slides.labelled], n_classes)
    listed = ", ".join(f"{name}: {count}" for name, count in zip(slides.classes, patients, strict=True))
    for f, (said, advice, outside) in enumerate(folds.trainings(slides)):
        inside = np.bincount(slides.y[folds.split(f, slides)[1]], minlength=n_classes)
        if slides.kind == CLASSES and folds.names and (inside > 0).sum() < 2:
            only = [name for name, count in zip(slides.classes, inside, strict=True) if count]
            raise ValueError(
                f"{folds.names[f]} has only {slides.unit}s of {shorten(only) if only else 'no class'}, so it cannot "
                f"measure how well classes are told apart (patients per class: {listed}). Take fewer folds with "
                "n_folds=, or other folds."
            )
        counts = np.bincount(slides.y[outside], minlength=n_classes)
        if few := [name for name, count in zip(slides.classes, counts, strict=True) if count < least]:
            raise ValueError(
                f"{said} fewer than {plural(least, slides.unit)} of {shorten(few)} to learn from (patients per class: "
                f"{listed}). {advice}, or leave the class without labels."
            )


def _check_numbers(slides: Slides, folds: SlideFolds, most_shots: int) -> None:
    """Raise unless the slides that heads learn from are enough, and their numbers differ."""
    for said, advice, outside in folds.trainings(slides):
        if len(outside) < most_shots:
            raise ValueError(
                f"{said} {plural(len(outside), slides.unit)}, fewer than shots={most_shots}. {advice}, or add some."
            )
        if np.ptp(slides.value[outside]) == 0:
            raise ValueError(
                f"{said} {plural(len(outside), slides.unit)} to learn from, and the value of all is "
                f"{slides.value[outside[0]]:g}, so nothing can be learned. Change the folds or cohorts."
            )
