"""Predicted classes of spots or slides, as ``few_shot`` and ``slide_task`` return them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from spade._checks import check_table, shorten
from spade.core.checks import check_count
from spade.tl._few_shot.few_shot_summary import COHORT

MADE_BY = "sp.tl.few_shot or sp.tl.slide_task with return_predictions=True (the second table)"
COLUMNS = ("representation", "shots", "repeat", "unit", "label", "predicted")
PROBABILITY = "probability_"


@dataclass(frozen=True)
class Predictions:
    """What one representation predicts, with the labels and predictions as text."""

    name: str
    shots: int
    classes: list[str]
    table: pd.DataFrame

    @property
    def title(self) -> str:
        """Name of the representation, and number of labels per class that it learned from."""
        labels = "all labels" if not self.shots else f"{self.shots} {'shot' if self.shots == 1 else 'shots'}"
        return f"{self.name}, {labels}"


def read_predictions(table: object, shots: object) -> list[Predictions]:
    """Return the predictions of every representation after ``shots`` (None: most) labels per class; check the table."""
    checked, _ = cohorts_as_names(check_table(table, COLUMNS, MADE_BY))
    classes = [str(name).removeprefix(PROBABILITY) for name in checked if str(name).startswith(PROBABILITY)]
    if not classes:
        raise ValueError("table: it has no probabilities of classes; these plots are not for numbers.")
    numbers = sorted(set(checked["shots"]))
    most = 0 if 0 in numbers else numbers[-1]
    chosen = most if shots is None else check_count("shots", shots, 0)
    if chosen not in numbers:
        raise KeyError(f"shots={shots!r} is not in the table; shots: {shorten(numbers, 20)}.")
    text = checked.assign(label=checked["label"].astype(str), predicted=checked["predicted"].astype(str))
    if odd := sorted({*text["label"], *text["predicted"]} - set(classes)):
        raise ValueError(f"table: it has no probability of {shorten(odd)}; classes: {shorten(classes, 20)}.")
    of_shots = text[np.equal(text["shots"], chosen)]
    return [
        Predictions(str(name), int(chosen), classes, own)
        for name, own in of_shots.groupby("representation", sort=False)
    ]


def cohorts_as_names(table: Any) -> tuple[Any, bool]:
    """Return the table with cohorts in the names of representations, if there are several; and if there are not."""
    if not isinstance(table, pd.DataFrame) or not {*COHORT} <= set(table):
        return table, True
    name = table["cohort"].where(table["evaluation"] == "external", table["cohort"] + " (cross-validated)")
    plain = table.drop(columns=COHORT)
    if name.nunique() < 2:
        return plain, True
    several = table["representation"].nunique() > 1
    return plain.assign(representation=table["representation"] + ", " + name if several else name), False
