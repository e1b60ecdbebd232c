"""Slides with one label each, and the patients and cohorts they come from."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade._checks import plural, shorten
from spade._samples.features import named_representations
from spade.core.arrays import Floats, Rows
from spade.core.errors import warn
from spade.core.evaluation.folds import quantile_strata
from spade.tl._slides.bags import Bags, BagSource, read_bags
from spade.tl._slides.pooled import PATIENT, SLIDE, check_alike, pooled
from spade.tl._slides.task.cohorts import Cohorts, check_patients, check_tested, used_cohorts
from spade.tl._slides.task.targets import AUTO, CLASSES, CONTINUOUS, read_target

logger = logging.getLogger("spade")


@dataclass(frozen=True)
class Slides:
    """Bags with labels.

    Attributes
    ----------
    bags
        All slides.
    y
        Number of the class or grade of every slide, 0 for a continuous target; -1: no label.
    classes
        Names of the classes, or of the grades in order; empty for a continuous target.
    group
        Patient of every slide; the slide itself if no patients were asked for.
    kind
        ``"classes"``, ``"ordinal"`` or ``"continuous"``.
    value
        Number of every slide: of its class, of its grade, or the target; NaN: no label.
    cohorts, cohort
        Cohorts to train on and to test on, and that of every slide, if they were asked for.
    n_slides
        If a bag holds all slides of a patient, and a "slide" is thus a patient: their number; else None.
    """

    bags: Bags
    y: Rows
    classes: list[str]
    group: NDArray[np.object_]
    kind: str
    value: Floats
    cohorts: Cohorts | None
    cohort: NDArray[np.object_]
    n_slides: Rows | None = None

    @property
    def unit(self) -> str:
        """What a bag is: ``"slide"`` or ``"patient"``."""
        return SLIDE if self.n_slides is None else PATIENT

    @property
    def labelled(self) -> Rows:
        """Numbers of the slides with a label."""
        return np.flatnonzero(self.y >= 0)

    def group_numbers(self, slides: Rows) -> Rows:
        """Return a number per patient for some slides, ``(len(slides),)``."""
        return np.unique(self.group[slides].astype(str), return_inverse=True)[1]

    def strata(self, slides: Rows, most: int) -> tuple[Rows, int]:
        """Return a stratum for some slides, ``(len(slides),)``, and their number.

        It is the class or grade; for a continuous target one of at most ``most`` quantiles of the patients' means.
        """
        if self.kind != CONTINUOUS:
            return self.y[slides], len(self.classes)
        strata = quantile_strata(self.value[slides], self.group_numbers(slides), most)
        return strata, int(strata.max()) + 1

    def of_cohorts(self, names: Collection[str]) -> Rows:
        """Numbers of the slides with a label in some cohorts."""
        return self.labelled[np.isin(self.cohort[self.labelled], list(names))]

    def to_train(self) -> Slides:
        """Return the slides that heads are trained on: all, or those of the cohorts to train on."""
        return self if self.cohorts is None else self.only(self.of_cohorts(self.cohorts.train_on))

    def by_patient(self, columns: Mapping[str, str | None]) -> Slides:
        """Return the patients with a label, each as one bag of its slides with a label; these must be alike."""
        rows = self.labelled
        patients, first, of_slide = np.unique(self.group[rows].astype(str), return_index=True, return_inverse=True)
        names, fold = np.array(self.bags.names, dtype=object)[rows], self.bags.facts.get("fold_key")
        label = self.bags.facts["label_key"][rows]
        check_alike(self.value[rows], of_slide, names, patients, f"label_key={columns['label_key']!r}", label)
        if fold is not None:
            check_alike(fold[rows].astype(str), of_slide, names, patients, f"fold_key={columns['fold_key']!r}")
        by_appearance = np.argsort(first)
        members = [rows[of_slide == number] for number in by_appearance]
        kept = rows[first[by_appearance]]
        return replace(
            self,
            bags=pooled(self.bags, patients[by_appearance].tolist(), members),
            y=self.y[kept],
            group=self.group[kept],
            value=self.value[kept],
            cohort=self.cohort[kept],
            n_slides=np.array([len(slides) for slides in members]),
        )

    def only(self, rows: Rows) -> Slides:
        """Return the same slides, of which only some keep their label."""
        kept = np.isin(np.arange(len(self.y)), rows)
        return replace(self, y=np.where(kept, self.y, -1), value=np.where(kept, self.value, np.nan))


def read_slides(
    bags: BagSource,
    use_rep: object,
    *,
    columns: Mapping[str, str | None],
    labels: pd.DataFrame | None,
    slide_key: str | None,
    table_key: str | None,
    optional: Collection[str] = (),
    target: str = CLASSES,
    cohorts: Cohorts | None = None,
    unit: str = SLIDE,
) -> Slides:
    """Describe slides, their targets, patients and cohorts; ``columns`` has ``label_key`` and ``groupby``.

    With ``unit="patient"`` the patients are described, each with one bag.
    """
    read = read_bags(
        bags,
        named=None if use_rep is None else named_representations(use_rep),
        columns=columns,
        labels=labels,
        slide_key=slide_key,
        table_key=table_key,
        optional=optional,
    )
    label = read.facts["label_key"]
    _say_without_label(label, read.names, CLASSES if "label_key" in optional else target)
    names = np.array(read.names, dtype=object)
    cohort = read.facts.get("cohort_key", np.full(len(names), "", dtype=object))
    if cohorts is not None:
        cohorts = used_cohorts(cohorts, cohort, label != "", read.names)
        label = _of_used_cohorts(label, cohorts, cohort)
    kind, y, classes, value = read_target(target, label, read.kinds["label_key"], read.names, str(columns["label_key"]))
    group = read.facts.get("groupby", names)
    without_group = names[(y >= 0) & (group == "")]
    if len(without_group):
        raise ValueError(
            f"groupby={columns['groupby']!r} is missing for {plural(len(without_group), 'slide')} with a label, such "
            f"as {shorten(without_group, 3)}. Fill it in, or pass groupby=None if every slide is of another patient."
        )
    if cohorts is not None:
        check_patients(cohorts, cohort, group, np.flatnonzero(y >= 0))
    slides = Slides(read, y, classes, group, CLASSES if kind == AUTO else kind, value, cohorts, cohort)
    slides = slides.by_patient(columns) if unit == PATIENT else slides
    if cohorts is not None:
        check_tested(cohorts, slides.cohort, slides.y, slides.value, classes, slides.unit)
    return slides


def _say_without_label(label: NDArray[np.object_], names: list[str], target: str) -> None:
    """Say that slides have no label, and which if these are not used, as those without a grade or number."""
    without = np.flatnonzero(label == "")
    if not len(without) or len(without) == len(label):
        return
    if target in (CLASSES, AUTO):
        logger.info("%d of %d slides have no label and are not trained on", len(without), len(label))
    else:
        warn(
            f"{len(without)} of {len(label)} slides have no value to predict and are not used: "
            f"{shorten(names[i] for i in without)}."
        )


def _of_used_cohorts(label: NDArray[np.object_], cohorts: Cohorts, cohort: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return labels without those of cohorts that are not used."""
    used = np.isin(cohort, [*cohorts.train_on, *(cohorts.test_on or ())])
    if n := int(((label != "") & ~used).sum()):
        logger.info("%d slides are of cohorts that are neither trained on nor tested on", n)
    return np.where(used, label, "")
