"""Classifiers that learn from a few rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
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
#: C of the authors of SPADE, whose features are not scaled.
PAPER_C = 2.0
#: Weights of a block that cross-validation within the support chooses from; the first is the prior.
WEIGHTS = (1.0, 0.0, 0.5, 2.0)
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
        Inverse strength of the L2 penalty of ``"linear"``: a number; ``"norm"``: 4 / mean of the squared lengths of the
        rows; ``"paper"``: 2; ``"cv"``: chosen within the support.
    n_neighbors
        Neighbours of ``"knn"``; all rows, if there are fewer.
    choose_weights
        Whether weights of blocks of columns are chosen within the support.
    """

    classifier: str = "linear"
    C: float | str = "norm"
    n_neighbors: int = 5
    choose_weights: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        check_choice("classifier", self.classifier, CLASSIFIERS)
        check_strength(self.C)
        check_count("n_neighbors", self.n_neighbors)

    def fit(self, x: Floats, y: Labels, seed: int = 0, widths: Sequence[int] = ()) -> Predict:
        """Learn from rows ``(n, d)`` and their classes; ``widths`` are those of the blocks of columns, if any."""
        if not self.choose_weights or len(widths) < 2:
            return self._fit(x, y, seed)
        columns = np.repeat(self._weights(x, y, seed, widths), widths)
        predict = self._fit(x * columns, y, seed)
        return lambda rows: predict(rows * columns)

    def _fit(self, x: Floats, y: Labels, seed: int) -> Predict:
        if self.classifier == "centroid":
            return _centroids(x, y)
        if self.classifier == "knn":
            return KNeighborsClassifier(min(self.n_neighbors, len(x)), weights="distance").fit(x, y).predict_proba
        return linear(x, y, self._choose(x, y, seed) if self.C == "cv" else strength(self.C, x))

    def _choose(self, x: Floats, y: Labels, seed: int) -> float:
        """C with the lowest loss in cross-validation; ``"norm"`` where a class has one row, none to hold out."""
        if not (folds := _folds(x, y, seed)):
            return strength("norm", x)
        return min(GRID, key=lambda c: _loss(folds, x, y, lambda a, b: linear(a, b, c)))

    def _weights(self, x: Floats, y: Labels, seed: int, widths: Sequence[int]) -> Floats:
        """Weights with the lowest loss in cross-validation, one block after another; 1 where none can be held out."""
        weights, folds = np.ones(len(widths)), _folds(x, y, seed)
        blocks = [_in_row_space(block) for block in np.split(x, np.cumsum(widths)[:-1], 1)]
        for block in range(1, len(widths)) if folds else ():

            def loss(weight: float, block: int = block) -> float:
                tried = [*weights[:block], weight, *weights[block + 1 :]]
                beside = np.hstack([w * values for w, values in zip(tried, blocks, strict=True)])
                return _loss(folds, beside, y, lambda a, b: self._fit(a, b, seed))

            weights[block] = min(WEIGHTS, key=loss)
        return weights


def check_strength(c: object) -> None:
    """Raise if this is no inverse strength of a penalty."""
    if not isinstance(c, str):
        check_positive("C", c)
    elif c not in ("norm", "paper", "cv"):
        raise ValueError(f'C={brief(c)}: expected a positive number, "norm", "paper" or "cv".')


def check_paper(c: object, scaling: str, *, class_weights: bool = False) -> None:
    """Raise if C is the authors' but the features would be scaled or the classes weighted, unlike theirs."""
    if c == "paper" and (scaling != "none" or class_weights):
        raise ValueError(
            'C="paper" is C = 2 on features that are not scaled, with all rows alike: add scaling="none"'
            f"{' and class_weights=False' if class_weights else ''}, or leave C= out."
        )


def strength(c: float | str, x: Floats) -> float:
    """Return C as a number for rows ``x``."""
    if c == "norm":
        return 4 / max(float(np.square(x).sum(1).mean()), 1e-12)
    return PAPER_C if c == "paper" else float(c)


def _folds(x: Floats, y: Labels, seed: int) -> list[tuple[Labels, Labels]]:
    """Folds of the support; none where a class has a single row."""
    n_folds = min(5, np.bincount(y).min())
    return list(StratifiedKFold(n_folds, shuffle=True, random_state=seed % 2**32).split(x, y)) if n_folds > 1 else []


def _in_row_space(x: Floats) -> Floats:
    """Rotate rows so that they have no more columns than there are rows; distances and lengths stay."""
    return x if x.shape[1] <= len(x) else np.linalg.qr(x.T)[1].T


def _loss(folds: list[tuple[Labels, Labels]], x: Floats, y: Labels, fit: Callable[[Floats, Labels], Predict]) -> float:
    """Mean log loss of the rows held out."""
    losses = [
        -np.log(fit(x[train], y[train])(x[held_out])[np.arange(len(held_out)), y[held_out]] + 1e-12)
        for train, held_out in folds
    ]
    return float(np.concatenate(losses).mean())


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
