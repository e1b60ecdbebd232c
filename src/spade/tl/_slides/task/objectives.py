"""How heads learn a target: the linear probe on the mean over patches, and the losses of attention heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import Tensor, nn

from spade.core.arrays import Floats, Rows, scale_of
from spade.core.evaluation.folds import stratified_folds
from spade.core.expression.ridge import fit_ridge, ridge_errors
from spade.core.rng import numpy_stream
from spade.core.slides.ordinal import Cumulative, fit_grades, grade_nll, grade_probabilities
from spade.tl._few_shot.probes import linear, strength
from spade.tl._slides.slides import Slides
from spade.tl._slides.task.settings import CUMULATIVE, SQUARED, SlideConfig

#: Penalties that cross-validation chooses from, strong to weak, times the mean of the squared lengths of the rows.
PENALTIES = 10.0 ** np.arange(5, -3.5, -0.5)
INNER_FOLDS = 5


class Objective(NamedTuple):
    """How an attention head learns.

    Attributes
    ----------
    n_out
        Outputs of the head.
    wrapped
        From the head to the module that is trained.
    loss
        From the module's outputs and the number of a slide to the loss.
    read
        From the module's outputs to the probabilities of classes or grades, or to the predicted number ``(1,)``.
    """

    n_out: int
    wrapped: Callable[[nn.Module], nn.Module]
    loss: Callable[[Tensor, int], Tensor]
    read: Callable[[Floats], Floats]


def objective(slides: Slides, train: Rows, config: SlideConfig, device: str) -> Objective:
    """Return how an attention head learns the targets of the slides ``train``."""
    if config.loss == SQUARED:
        return _squared(slides, train, device)
    weights = class_weights(slides, train, config)
    weight, truth = torch.from_numpy(weights).to(device, torch.float32), torch.from_numpy(slides.y).to(device)
    n_classes = len(slides.classes)
    if config.loss == CUMULATIVE:
        shares = weights * np.bincount(slides.y[train], minlength=n_classes)
        return Objective(
            1,
            lambda head: Cumulative(head, shares),
            lambda outputs, i: weight[truth[i]] * grade_nll(outputs[None], truth[i : i + 1])[0],
            lambda outputs: grade_probabilities(outputs[None])[0],
        )
    return Objective(
        n_classes, lambda head: head, lambda outputs, i: weight[truth[i]] * F.cross_entropy(outputs, truth[i]), softmax
    )


def _squared(slides: Slides, train: Rows, device: str) -> Objective:
    """Squared errors of the target, with mean 0 and deviation 1 over the training slides."""
    mean, deviation = _moments_of_target(slides.value[train])
    scaled = torch.from_numpy((slides.value - mean) / deviation).to(device, torch.float32)
    return Objective(
        1,
        lambda head: head,
        lambda outputs, i: (outputs[0] - scaled[i]).square(),
        lambda outputs: outputs * deviation + mean,
    )


def _moments_of_target(value: Floats) -> tuple[float, float]:
    mean = value.mean(keepdims=True)
    return float(mean[0]), float(scale_of(mean * 0, value.var(keepdims=True))[0])


def class_weights(slides: Slides, train: Rows, config: SlideConfig) -> Floats:
    """Weight of every class, ``(n_classes,)``: inversely proportional to its training slides, or 1."""
    n_classes = len(slides.classes)
    if not config.class_weights:
        return np.ones(n_classes)
    return len(train) / (n_classes * np.bincount(slides.y[train], minlength=n_classes))


def fit_probe(slides: Slides, train: Rows, x: Floats, config: SlideConfig, seed: int) -> Callable[[Floats], Floats]:
    """Fit the targets of the slides ``train`` to their rows ``(n, d)``.

    Returns a function from rows to the probabilities of classes or grades ``(n, K)``, or to numbers ``(n, 1)``.
    """
    if config.loss == SQUARED:
        return _ridge(slides, train, x, config, seed)
    y, c = slides.y[train], strength(config.C or "norm", x)
    if config.loss == CUMULATIVE:
        return fit_grades(x, y, c, class_weights(slides, train, config)[y]).probabilities
    return linear(x, y, c, balanced=bool(config.class_weights))


def _ridge(slides: Slides, train: Rows, x: Floats, config: SlideConfig, seed: int) -> Callable[[Floats], Floats]:
    """Ridge regression, solved in the space of the rows if there are fewer of them than features."""
    basis = np.linalg.qr(x.T)[0] if len(x) < x.shape[1] else np.eye(x.shape[1])
    inner, value = x @ basis, slides.value[train][:, None]
    alpha = _cross_validated(slides, train, inner, value, seed) if config.C == "cv" else None
    if alpha is None:
        alpha = 1 / strength("norm" if config.C == "cv" else config.C or "norm", x)
    model = fit_ridge(inner, value)
    return lambda rows: model.predict(rows @ basis, alpha)


def _cross_validated(slides: Slides, train: Rows, x: Floats, value: Floats, seed: int) -> float | None:
    """Penalty with the least squared error on patients held out of the training slides; None with a single patient."""
    groups = slides.group_numbers(train)
    n_folds = min(INNER_FOLDS, len(np.unique(groups)))
    if n_folds < 2:
        return None
    strata, n_strata = slides.strata(train, max(1, len(np.unique(groups)) // n_folds))
    fold = stratified_folds(groups, strata, n_strata, n_folds, numpy_stream(seed, "penalty of slides"))
    folds = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(n_folds)]
    alphas = PENALTIES * max(float(np.square(x).sum(1).mean()), 1e-12)
    return float(alphas[int(ridge_errors(x, value, folds, alphas).squared[:, 0].argmin())])
