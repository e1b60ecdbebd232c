"""Tables of scores and of predictions, made from the predictions of all heads."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from spade.tl._few_shot.scores import Row
from spade.tl._slides.slide_folds import SlideFolds
from spade.tl._slides.slides import Slides
from spade.tl._slides.task.evaluate import Fit
from spade.tl._slides.task.scores import Predictions, bounded_rows, joined, patient_rows, prediction_rows, score_rows
from spade.tl._slides.task.targets import CLASSES

logger = logging.getLogger("spade")
#: Unit of scores over the predictions of all folds.
ALL_FOLDS = "all folds"
#: Fewest slides of a fold over which numbers or grades are scored.
FEWEST = 10
#: Columns of a table of scores, as far as there are such.
COLUMNS = (
    "representation", "classifier", "shots", "repeat", "evaluation", "cohort", "unit", "metric", "label", "value",
    "low", "high", "n_query", "n_classes",
)  # fmt: skip


def folds_are_pooled(slides: Slides, folds: SlideFolds) -> bool:
    """Whether some fold is too small to be scored by itself; never for classes, which every fold has two of."""
    if slides.kind == CLASSES:
        return False
    inside = [folds.split(f, slides)[1] for f in range(len(folds.names))]
    small = [
        name
        for name, rows in zip(folds.names, inside, strict=True)
        if len(rows) < FEWEST or np.ptp(slides.value[rows]) == 0
    ]
    if small:
        logger.info(
            "%s has fewer than %d %ss or a single value: scores are over the predictions of all folds, not by fold",
            small[0], FEWEST, slides.unit,
        )  # fmt: skip
    return bool(small)


def make_tables(
    slides: Slides, fits: Iterable[Fit], *, pooled: bool, seed: int
) -> tuple[pd.DataFrame, Sequence[Row], int]:
    """Return the scores of all heads, what they predict, and how many of them had no inner split.

    Scores are by fold, or (``pooled``) over the predictions of all folds; and by test cohort.
    """
    rows: list[Row] = []
    predicted: list[Row] = []
    of_head: dict[tuple[str | int | float, ...], tuple[Row, list[Predictions]]] = {}
    without_split: set[tuple[str | int | float, ...]] = set()
    for fit in fits:
        unit: Row = fit.facts | {"unit": fit.unit}
        if fit.is_external:
            rows += [unit | row for row in bounded_rows(slides, fit.predictions, seed)]
        elif pooled:
            of_head.setdefault(tuple(fit.facts.values()), (fit.facts, []))[1].append(fit.predictions)
        else:
            rows += [unit | row for row in score_rows(slides, fit.predictions)]
        rows += [fit.facts | row for row in patient_rows(slides, fit.predictions)]
        predicted += [unit | row for row in prediction_rows(slides, fit.predictions)]
        if fit.facts["classifier"] != "mean" and not fit.selected:  # one head predicts all test cohorts
            names = (fit.facts[name] for name in ("representation", "shots", "repeat"))
            without_split.add((*names, "" if fit.is_external else fit.unit))
    for facts, parts in of_head.values():
        rows += [facts | {"unit": ALL_FOLDS} | row for row in bounded_rows(slides, joined(parts), seed)]
    table = pd.DataFrame(rows).assign(n_classes=len(slides.classes))
    table = table[[name for name in COLUMNS if name in table]]
    table.index = table.index.astype(str)
    return table, predicted, len(without_split)
