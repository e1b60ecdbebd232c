"""Two ways to predict expression from the rows of a reference: neighbours and ridge regression."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spade._samples.features import column_scale
from spade.core.arrays import Floats
from spade.core.expression.neighbours import neighbour_expression
from spade.core.expression.ridge import ALPHAS, Ridge, best_penalty, fit_ridge, ridge_errors
from spade.tl._expression.reference import Reference
from spade.tl._expression.settings import PredictionSettings


@dataclass
class Predictor:
    """Predicts from some rows of a reference: mean and deviation of every gene.

    Attributes
    ----------
    alpha
        Penalty of the ridge regression; NaN of neighbours.
    """

    settings: PredictionSettings
    reference: Reference
    rows: NDArray[np.int64]
    alpha: float = np.nan
    ridge: Ridge | None = field(default=None, repr=False)
    scale: tuple[Floats, Floats] | None = field(default=None, repr=False)
    residual: Floats | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Fit the ridge regression, its penalty and its held-out errors."""
        if self.settings.method != "ridge":
            return
        image, y = self.reference.image, self.reference.y
        self.scale = column_scale(image[self.rows])
        x = (image - self.scale[0]) / self.scale[1]
        folds = self.reference.folds(self.rows)
        alphas = ALPHAS if isinstance(self.settings.alpha, str) else np.array([float(self.settings.alpha)])
        if folds:
            errors = ridge_errors(x, y, folds, alphas)
            best = best_penalty(errors)
            self.residual = np.sqrt(errors.squared[best])
        elif isinstance(self.settings.alpha, str):
            raise ValueError(
                f'alpha="cv": reference has one section ({self.reference.section[self.rows[0]]}) and no patches, so nothing can be held '
                "out to choose a penalty. Add sections, run sp.pp.patches (halves of the section are then held out), or give a number."
            )
        else:
            best, self.residual = 0, np.full(y.shape[1], np.nan)
        self.alpha = float(alphas[best])
        self.ridge = fit_ridge(x[self.rows], y[self.rows])

    def predict(self, image: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return mean and deviation ``(n, G)``."""
        if self.ridge is not None and self.scale is not None and self.residual is not None:
            if image.shape[1] != len(self.scale[0]):
                raise ValueError(
                    f"use_rep={self.settings.use_rep!r}: {image.shape[1]} features in samples, but {len(self.scale[0])} in reference. Make it "
                    "alike."
                )
            mean = self.ridge.predict((image - self.scale[0]) / self.scale[1], self.alpha).astype(np.float32)
            return mean, np.broadcast_to(self.residual.astype(np.float32), mean.shape)
        gallery, y = self.reference.gallery[self.rows], self.reference.y[self.rows]
        return neighbour_expression(image, gallery, y, self.settings.k, self.settings.temperature)
