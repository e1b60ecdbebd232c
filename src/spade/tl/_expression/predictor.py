"""Two ways to predict expression from the rows of a reference: neighbours and ridge regression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade.core.arrays import Floats, Rows
from spade.core.evaluation.scaling import column_scale
from spade.core.expression.neighbours import neighbour_expression
from spade.core.expression.ridge import ALPHAS, Ridge, best_penalty, fit_ridge, ridge_errors
from spade.tl._expression.reference import Reference
from spade.tl._expression.settings import PredictionSettings

#: Mean and deviation of every gene, both ``(n, G)``.
Prediction = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class NeighbourPredictor:
    """Predicts the weighted mean of the nearest rows in the joint space of a model."""

    gallery: NDArray[np.float32]
    y: csr_matrix
    k: int
    temperature: float

    def predict(self, image: NDArray[np.floating]) -> Prediction:
        """Return mean and deviation among the neighbours of image embeddings ``(n, d)``."""
        return neighbour_expression(image, self.gallery, self.y, self.k, self.temperature)


@dataclass(frozen=True)
class RidgePredictor:
    """Predicts by ridge regression on scaled features.

    Attributes
    ----------
    ridge
        The regression.
    mean, deviation
        What features are scaled by, ``(d,)``.
    alpha
        Penalty.
    residual
        Root mean squared error of every gene on held-out rows, ``(G,)``; NaN where none could be held out.
    """

    ridge: Ridge
    mean: Floats
    deviation: Floats
    alpha: float
    residual: Floats

    def predict(self, image: NDArray[np.floating]) -> Prediction:
        """Return the prediction from features ``(n, d)`` and, alike for all rows, the held-out error."""
        mean = self.ridge.predict((image - self.mean) / self.deviation, self.alpha).astype(np.float32)
        return mean, np.broadcast_to(self.residual.astype(np.float32), mean.shape)


Predictor = NeighbourPredictor | RidgePredictor


def fit_predictor(settings: PredictionSettings, reference: Reference, rows: Rows) -> Predictor:
    """Return what predicts from some rows of a reference."""
    if settings.method == "ridge":
        return _fit_ridge(settings, reference, rows)
    return NeighbourPredictor(reference.gallery[rows], reference.y[rows], settings.k, settings.temperature)


def _fit_ridge(settings: PredictionSettings, reference: Reference, rows: Rows) -> RidgePredictor:
    """Fit the ridge regression, its penalty and its held-out errors."""
    mean, deviation = column_scale(reference.image[rows])
    x, y = (reference.image - mean) / deviation, reference.y
    folds = reference.folds(rows)
    choose = isinstance(settings.alpha, str)
    alphas = ALPHAS if choose else np.array([float(settings.alpha)])
    best, residual = 0, np.full(y.shape[1], np.nan)
    if folds:
        errors = ridge_errors(x, y, folds, alphas)
        best = best_penalty(errors)
        residual = np.sqrt(errors.squared[best])
    elif choose:
        raise ValueError(
            f'alpha="cv": reference has one section ({reference.section[rows[0]]}) and no patches, so nothing can be '
            "held out to choose a penalty. Add sections, run sp.pp.patches (halves of the section are then held out), "
            "or give a number."
        )
    return RidgePredictor(fit_ridge(x[rows], y[rows]), mean, deviation, float(alphas[best]), residual)
