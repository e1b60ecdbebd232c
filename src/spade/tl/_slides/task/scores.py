"""Scores of what is predicted for slides, with bounds over patients, as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from spade.core.arrays import Floats, Rows
from spade.core.evaluation.intervals import bootstrap_weights, interval
from spade.core.evaluation.metrics import balanced_accuracy, recalls
from spade.core.evaluation.numbers import c_index, mean_absolute_error, pearson, quadratic_kappa, r2
from spade.core.rng import numpy_stream
from spade.core.slides.ordinal import median_grade
from spade.tl._few_shot.scores import RECALL, Row, scores
from spade.tl._slides.slides import Slides
from spade.tl._slides.task.settings import CUMULATIVE
from spade.tl._slides.task.targets import CLASSES, CONTINUOUS, ORDINAL

#: Bootstrap samples of patients, for bounds at 95 %.
N_BOOT = 1_000


class Predictions(NamedTuple):
    """Outputs of heads for slides that they were not trained on.

    Attributes
    ----------
    slides
        Numbers of the slides ``(n,)``.
    outputs
        Probabilities of classes or grades ``(n, K)``, or numbers ``(n, 1)``.
    reference
        Mean target of the training slides, for every slide ``(n,)``.
    loss
        Loss of the heads, which says how outputs are read.
    """

    slides: Rows
    outputs: Floats
    reference: Floats
    loss: str

    def numbers(self) -> Floats:
        """Return the number predicted for every slide."""
        return self.outputs[:, 0]

    def classes(self) -> Rows:
        """Return the number of the class or grade predicted for every slide."""
        return median_grade(self.outputs) if self.loss == CUMULATIVE else self.outputs.argmax(1)

    def only(self, rows: Rows) -> Predictions:
        """Return the predictions of some rows, which may occur more than once."""
        return self._replace(slides=self.slides[rows], outputs=self.outputs[rows], reference=self.reference[rows])


def joined(parts: list[Predictions]) -> Predictions:
    """Return predictions of several folds as one."""
    return Predictions(
        np.concatenate([part.slides for part in parts]),
        np.concatenate([part.outputs for part in parts]),
        np.concatenate([part.reference for part in parts]),
        parts[0].loss,
    )


def score_rows(slides: Slides, predictions: Predictions) -> list[Row]:
    """Return the scores of slides that are compared with each other; ``label`` is the class of a recall."""
    if slides.kind == CLASSES:
        return list(scores(slides.y[predictions.slides], predictions.outputs, slides.classes))
    kind_scores = _number_scores if slides.kind == CONTINUOUS else _grade_scores
    return list(kind_scores(slides, predictions))


def _number_scores(slides: Slides, predictions: Predictions) -> Iterator[Row]:
    truth, predicted = slides.value[predictions.slides], predictions.numbers()
    for metric, value in (
        ("pearson", pearson(truth, predicted)),
        ("r2", r2(truth, predicted, predictions.reference)),
        ("c_index", c_index(truth, predicted)),
        ("mae", mean_absolute_error(truth, predicted)),
    ):
        yield {"metric": metric, "label": "", "value": value, "n_query": len(truth)}


def _grade_scores(slides: Slides, predictions: Predictions) -> Iterator[Row]:
    truth, grades = slides.y[predictions.slides], predictions.classes()
    n, number = len(slides.classes), _number_of_grade(slides)
    for metric, value in (
        ("quadratic_kappa", quadratic_kappa(number[truth], number[grades])),
        ("balanced_accuracy", balanced_accuracy(truth, grades, n)),
        ("mae", mean_absolute_error(number[truth], number[grades])),
    ):
        yield {"metric": metric, "label": "", "value": value, "n_query": len(truth)}
    for k, value in enumerate(recalls(truth, grades, n)):
        if not np.isnan(value):
            yield {"metric": RECALL, "label": slides.classes[k], "value": value, "n_query": int((truth == k).sum())}


def _number_of_grade(slides: Slides) -> Floats:
    """Return the number of every grade, by which distances between grades are measured."""
    return np.array([slides.value[slides.y == k].max() for k in range(len(slides.classes))])


def bounded_rows(slides: Slides, predictions: Predictions, seed: int) -> list[Row]:
    """Return the scores with ``low`` and ``high``: 95 % bounds over patients.

    Patients are resampled, each with its slides; the heads are not trained again. The bounds of one patient are NaN.
    """
    rows = score_rows(slides, predictions)
    patient = slides.group_numbers(predictions.slides)
    members = [np.flatnonzero(patient == p) for p in range(patient.max() + 1)]
    place = {(row["metric"], row["label"]): i for i, row in enumerate(rows)}
    drawn = np.full((N_BOOT, len(rows)), np.nan)
    if len(members) > 1:
        weights = bootstrap_weights(len(members), N_BOOT, numpy_stream(seed, "bootstrap of slides"))
        for b, weight in enumerate(weights):
            chosen = np.concatenate([members[p] for p in np.repeat(np.arange(len(members)), weight)])
            for row in score_rows(slides, predictions.only(chosen)):
                drawn[b, place[row["metric"], row["label"]]] = row["value"]
    low, high = interval(drawn)
    return [row | {"low": float(low[i]), "high": float(high[i])} for i, row in enumerate(rows)]


def patient_rows(slides: Slides, predictions: Predictions) -> list[Row]:
    """Return the accuracy, the absolute error or both of every patient, the mean over its slides."""
    value, metrics = slides.value[predictions.slides], {}
    if slides.kind == CONTINUOUS:
        metrics["absolute_error"] = np.abs(predictions.numbers() - value)
    else:
        metrics["accuracy"] = (predictions.classes() == slides.y[predictions.slides]).astype(np.float64)
    if slides.kind == ORDINAL:
        metrics["absolute_error"] = np.abs(_number_of_grade(slides)[predictions.classes()] - value)
    group, rows = slides.group[predictions.slides], []
    for name in dict.fromkeys(group.tolist()):
        for metric, values in metrics.items():
            of_patient = values[group == name]
            facts = {"unit": name, "metric": metric, "label": ""}
            rows.append(facts | {"value": float(of_patient.mean()), "n_query": len(of_patient)})
    return rows


def prediction_rows(slides: Slides, predictions: Predictions) -> list[Row]:
    """Return what is predicted for every slide, or every patient; its label is empty or NaN if it has none."""
    rows: list[Row] = [{"slide": slides.bags.names[i], "group": slides.group[i]} for i in predictions.slides]
    if slides.n_slides is not None:
        rows = [{"group": slides.group[i], "n_slides": int(slides.n_slides[i])} for i in predictions.slides]
    if slides.kind == CONTINUOUS:
        for row, i, number in zip(rows, predictions.slides, predictions.numbers(), strict=True):
            row |= {"label": float(slides.value[i]), "predicted": float(number)}
        return rows
    named = [f"probability_{name}" for name in slides.classes]
    for row, i, k, p in zip(rows, predictions.slides, predictions.classes(), predictions.outputs, strict=True):
        row |= {"label": slides.classes[slides.y[i]] if slides.y[i] >= 0 else "", "predicted": slides.classes[k]}
        row |= dict(zip(named, p.tolist(), strict=True))
    return rows
