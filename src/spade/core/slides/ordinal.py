"""Grades with an order: cumulative logits (proportional odds, McCullagh 1980), linear or on top of a bag's head."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor, nn

from spade.core.arrays import Floats, Rows


def grade_nll(logits: Tensor, y: Tensor) -> Tensor:
    """Return −log P(grade = y), ``(n,)``, from the decreasing logits ``(n, K − 1)`` of P(grade > k).

    With a and b the logits of P(grade > y − 1) and P(grade > y): σ(a) − σ(b) = σ(a) σ(−b) (1 − exp(b − a)), whose
    logarithm keeps its digits.
    """
    ends = logits.new_full((len(logits), 1), torch.inf)
    padded = torch.cat([ends, logits, -ends], 1)
    above, below = padded.gather(1, y[:, None])[:, 0], padded.gather(1, y[:, None] + 1)[:, 0]
    return -(F.logsigmoid(above) + F.logsigmoid(-below) + torch.log(-torch.expm1(below - above)))


def grade_probabilities(logits: Floats) -> Floats:
    """Return the probability of every grade, ``(n, K)``, from the logits ``(n, K − 1)`` of P(grade > k)."""
    above: NDArray[np.float64] = expit(np.asarray(logits, dtype=np.float64))
    ones = np.ones((len(above), 1))
    return -np.diff(np.hstack([ones, above, 0 * ones]), axis=1)


def median_grade(probabilities: Floats) -> Rows:
    """Return the lowest grade that is reached or passed with a probability of at least one half, from ``(n, K)``."""
    return (np.cumsum(probabilities, 1)[:, :-1] < 0.5).sum(1)


def cuts_of_shares(shares: Floats) -> Floats:
    """Return the cuts ``(K − 1,)`` between grades that have these shares ``(K,)`` if every score is 0."""
    below = np.cumsum(shares / shares.sum())[:-1]
    return np.log(below / (1 - below))


class Cumulative(nn.Module):
    """A head with one output, the score of a bag, and the cuts between grades: logits score − cut of P(grade > k)."""

    def __init__(self, head: nn.Module, shares: Floats) -> None:
        super().__init__()
        cuts = torch.as_tensor(cuts_of_shares(shares), dtype=torch.float32)
        self.head = head
        self.first = nn.Parameter(cuts[:1].clone())
        self.log_gaps = nn.Parameter(cuts.diff().log())

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``(K − 1,)`` and the attention of the patches."""
        score, attention = self.head(bag)
        return score - _cuts(self.first, self.log_gaps), attention


def _cuts(first: Tensor, log_gaps: Tensor) -> Tensor:
    return torch.cat([first, first + log_gaps.exp().cumsum(0)])


class LinearGrades(NamedTuple):
    """Logits ``x @ weights − cuts`` of P(grade > k)."""

    weights: Floats
    cuts: Floats

    def probabilities(self, x: Floats) -> Floats:
        """Return the probability of every grade, ``(n, K)``, for rows ``(n, d)``."""
        return grade_probabilities((x @ self.weights)[:, None] - self.cuts)


def fit_grades(x: Floats, y: Rows, c: float, weight: Floats) -> LinearGrades:
    """Minimise ``c · Σ weight · −log P(y | x) + ‖weights‖² / 2``, with cuts that have no penalty.

    Parameters
    ----------
    x
        Rows ``(n, d)``. The weights are combinations of them, so the search has at most n directions.
    y
        Grade ``(n,)`` of every row, from 0 to K − 1, each of which occurs.
    c
        Inverse strength of the penalty, as in a logistic regression; with two grades it is one.
    weight
        Weight ``(n,)`` of every row.
    """
    basis = np.linalg.qr(x.T)[0] if len(x) < x.shape[1] else None
    inner = torch.as_tensor(x if basis is None else x @ basis, dtype=torch.float64)
    truth, row_weight, d = torch.as_tensor(y), torch.as_tensor(weight, dtype=torch.float64), inner.shape[1]
    cuts = cuts_of_shares(np.bincount(y, weight).astype(np.float64))
    start = np.concatenate([np.zeros(d), cuts[:1], np.log(np.diff(cuts))])

    def objective(flat: Floats) -> tuple[float, Floats]:
        w = torch.as_tensor(flat).requires_grad_()
        logits = (inner @ w[:d])[:, None] - _cuts(w[d : d + 1], w[d + 1 :])
        value = (row_weight * grade_nll(logits, truth)).sum() + w[:d].square().sum() / (2 * c)
        (slope,) = torch.autograd.grad(value, w)
        return float(value.detach()), slope.numpy()

    found = torch.as_tensor(
        minimize(
            objective, start, jac=True, method="L-BFGS-B",
            options={"maxiter": 5_000, "maxfun": 10_000, "gtol": 1e-6, "ftol": 1e-13, "maxcor": 20},
        ).x
    )  # fmt: skip
    weights = found[:d].numpy()
    return LinearGrades(weights if basis is None else basis @ weights, _cuts(found[d : d + 1], found[d + 1 :]).numpy())
