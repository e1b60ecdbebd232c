"""Classifiers that learn from a few rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

from spade.core.arrays import Floats
from spade.core.checks import brief, check_choice, check_count, check_positive

CLASSIFIERS = ("linear", "centroid", "knn")
#: Values of C that cross-validation within the support chooses from.
GRID = tuple(10.0**power for power in range(-4, 5))
Labels = NDArray[np.integer]
#: From rows ``(n, d)`` to probabilities ``(n, n_classes)``.
Predict = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Probe:
    """A classifier and its settings; :meth:`fit` takes rows of every class from 0 to the last.

    Attributes
    ----------
    classifier
        ``"linear"``: logistic regression. ``"centroid"``: nearest class mean of rows that were centred and scaled to
        length 1 (SimpleShot). ``"knn"``: votes of the nearest rows, weighted by inverse distance.
    C
        Inverse strength of the L2 penalty of ``"linear"``: a number, ``"paper"`` (width × classes / 100) or ``"cv"``
        (chosen within the support).
    n_neighbors
        Neighbours of ``"knn"``; all rows, if there are fewer.
    """

    classifier: str = "linear"
    C: float | str = "paper"
    n_neighbors: int = 5

    def __post_init__(self) -> None:
        """Check the settings."""
        check_choice("classifier", self.classifier, CLASSIFIERS)
        if isinstance(self.C, str):
            if self.C not in ("paper", "cv"):
                raise ValueError(
                    f'C={brief(self.C)}: expected a positive number, "paper" (width × classes / 100) or "cv".'
                )
        else:
            check_positive("C", self.C)
        check_count("n_neighbors", self.n_neighbors)

    def fit(self, x: Floats, y: Labels, seed: int = 0) -> Predict:
        """Learn from rows ``(n, d)`` and their classes."""
        if self.classifier == "centroid":
            return _centroids(x, y)
        if self.classifier == "knn":
            return KNeighborsClassifier(min(self.n_neighbors, len(x)), weights="distance").fit(x, y).predict_proba
        c = self._choose(x, y, seed) if self.C == "cv" else self._paper(x, y) if self.C == "paper" else float(self.C)
        return linear(x, y, c)

    @staticmethod
    def _paper(x: Floats, y: Labels) -> float:
        return x.shape[1] * len(np.unique(y)) / 100

    def _choose(self, x: Floats, y: Labels, seed: int) -> float:
        """C with the lowest loss in cross-validation; that of the paper where a class has one row, none to hold out."""
        n_folds = min(5, np.bincount(y).min())
        if n_folds < 2:
            return self._paper(x, y)
        folds = list(StratifiedKFold(n_folds, shuffle=True, random_state=seed % 2**32).split(x, y))

        def loss(c: float) -> float:
            losses = [
                -np.log(linear(x[train], y[train], c)(x[held_out])[np.arange(len(held_out)), y[held_out]] + 1e-12)
                for train, held_out in folds
            ]
            return float(np.concatenate(losses).mean())

        return min(GRID, key=loss)


def linear(x: Floats, y: Labels, c: float, *, balanced: bool = False) -> Predict:
    """Multinomial logistic regression with an L2 penalty; ``balanced``: every class counts alike.

    Its weights are combinations of the rows. With fewer rows than features it is therefore solved in the space of the
    rows, which gives the same solution faster.
    """
    basis = np.linalg.qr(x.T)[0] if len(x) < x.shape[1] else None
    model = LogisticRegression(C=c, max_iter=10_000, class_weight="balanced" if balanced else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # separable classes: it never converges
        model.fit(x if basis is None else x @ basis, y)
    if basis is not None:
        model.coef_, model.n_features_in_ = model.coef_ @ basis.T, x.shape[1]
    return model.predict_proba


def _centroids(x: Floats, y: Labels) -> Predict:
    """Softmax over negative squared distances to the class means, of rows that were centred and scaled to length 1."""
    centre = x.mean(0)

    def unit(rows: Floats) -> Floats:
        centred = rows - centre
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)

    scaled = unit(x)
    means = np.stack([scaled[y == k].mean(0) for k in range(y.max() + 1)])

    def predict(rows: Floats) -> Floats:
        distances = np.square(means).sum(1) - 2 * unit(rows) @ means.T  # squared, up to a constant
        return softmax(-distances, axis=1)

    return predict
