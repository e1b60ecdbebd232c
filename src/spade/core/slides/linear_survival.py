"""Linear survival models with a ridge penalty, fitted exactly in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize

from spade.core.arrays import Floats, scale_of

#: Penalties to choose from, strong to weak. In a Cox model, 1 means that log risks have a deviation of 1 a priori.
STRENGTHS = tuple(10.0 ** np.arange(3, -1.5, -0.5))
#: Penalty of an intercept as a share of that of the weights. It keeps a hazard finite that is 1 in the data.
INTERCEPT_PENALTY = 1e-3
#: From the outputs ``(n, n_out)`` of all rows to their mean loss.
Loss = Callable[[torch.Tensor], torch.Tensor]


class Linear(NamedTuple):
    """A linear model with outputs ``((x - mean) / deviation) @ weights + intercept`` for features ``(n, d)``."""

    mean: Floats
    deviation: Floats
    weights: Floats
    intercept: Floats

    def __call__(self, x: Floats) -> Floats:
        """Return outputs ``(n, n_out)``."""
        return (x - self.mean) / self.deviation @ self.weights + self.intercept


def ridge_path(
    x: Floats, loss: Loss, n_out: int, n_terms: int, strengths: Sequence[float], *, intercept: bool
) -> list[Linear]:
    """Minimise ``n_terms · loss + strength / 2 · ‖weights‖²`` for every strength, from the previous solution.

    Features are scaled to mean 0 and deviation 1 over the rows, and divided by the square root of their number, so that
    a strength means the same for every width. The solution lies in the span of the rows, so the search has at most as
    many directions as there are rows.

    Parameters
    ----------
    x
        Features ``(n, d)``.
    loss
        From outputs ``(n, n_out)`` to a mean over terms.
    n_out
        Outputs per row.
    n_terms
        Number of terms in the mean: events for a Cox model, rows for discrete hazards.
    strengths
        Strengths of the penalty.
    intercept
        Whether every output has an intercept.
    """
    mean = x.mean(0, dtype=np.float64)
    deviation = scale_of(mean, x.var(0, dtype=np.float64)) * np.sqrt(x.shape[1])
    left, scale, axes = np.linalg.svd((x - mean) / deviation, full_matrices=False)
    inner = torch.as_tensor(left * scale)
    shape = (len(scale) + intercept, n_out)

    def objective(flat: Floats, strength: float) -> tuple[float, Floats]:
        w = torch.as_tensor(flat.reshape(shape)).requires_grad_()
        outputs = inner @ w[: len(scale)]
        penalty = strength / 2 * w[: len(scale)].square().sum()
        if intercept:
            outputs = outputs + w[-1]
            penalty = penalty + strength * INTERCEPT_PENALTY / 2 * w[-1].square().sum()
        value = n_terms * loss(outputs) + penalty
        (slope,) = torch.autograd.grad(value, w)
        return float(value.detach()), slope.numpy().ravel()

    models, solution = [], np.zeros(shape).ravel()
    for strength in strengths:
        solution = minimize(
            objective, solution, args=(strength,), jac=True, method="L-BFGS-B",
            options={"maxiter": 2_000, "maxfun": 4_000, "gtol": 1e-6, "ftol": 1e-13, "maxcor": 20},
        ).x  # fmt: skip
        w = solution.reshape(shape)
        models.append(Linear(mean, deviation, axes.T @ w[: len(scale)], w[-1] if intercept else np.zeros(n_out)))
    return models
