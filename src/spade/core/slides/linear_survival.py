"""Linear survival models with a ridge penalty, fitted exactly in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from spade.core.arrays import Floats, scale_of

#: Strengths to choose from, strong to weak. Of a Cox model, 1 means that log risks have a deviation of 1 a priori.
STRENGTHS = tuple(10.0 ** np.arange(3, -1.5, -0.5))
#: Penalty of an intercept, as a share of that of the weights: a hazard that is 1 in the data stays finite.
INTERCEPT = 1e-3
#: Mean loss of the outputs ``(n, n_out)`` of all rows.
Loss = Callable[[torch.Tensor], torch.Tensor]


class Linear(NamedTuple):
    """Outputs ``((x - mean) / deviation) @ weights + intercept`` of features ``(n, d)``."""

    mean: Floats
    deviation: Floats
    weights: Floats
    intercept: Floats

    def __call__(self, x: NDArray[np.floating]) -> Floats:
        """Return outputs ``(n, n_out)``."""
        return (x - self.mean) / self.deviation @ self.weights + self.intercept


def ridge_path(
    x: NDArray[np.floating],
    loss: Loss,
    n_out: int,
    n_terms: int,
    strengths: Sequence[float],
    intercept: bool,
) -> list[Linear]:
    """Minimise ``n_terms · loss + strength / 2 · ‖weights‖²`` for every strength, each from the solution before.

    Features get mean 0 and deviation 1 over the rows and are divided by the root of their number, so that a strength means the same
    for every width. Weights are sought in the span of the rows, where the solution lies: at most as many directions as rows.

    Parameters
    ----------
    x
        ``(n, d)``.
    loss
        From outputs ``(n, n_out)`` to a mean over terms.
    n_out
        Outputs per row.
    n_terms
        How many terms the loss is a mean of: events for Cox, rows for discrete hazards.
    strengths
        Of the penalty.
    intercept
        Whether there is one per output.
    """
    mean = x.mean(0, dtype=np.float64)
    deviation = scale_of(mean, x.var(0, dtype=np.float64)) * np.sqrt(x.shape[1])
    left, scale, axes = np.linalg.svd((x - mean) / deviation, full_matrices=False)
    inner = torch.as_tensor(left * scale)
    shape = (len(scale) + intercept, n_out)

    def objective(flat: Floats, strength: float) -> tuple[float, Floats]:
        w = torch.as_tensor(flat.reshape(shape)).requires_grad_(True)
        outputs = inner @ w[: len(scale)]
        penalty = strength / 2 * w[: len(scale)].square().sum()
        if intercept:
            outputs = outputs + w[-1]
            penalty = penalty + strength * INTERCEPT / 2 * w[-1].square().sum()
        value = n_terms * loss(outputs) + penalty
        (slope,) = torch.autograd.grad(value, w)
        return float(value.detach()), slope.numpy().ravel()

    found, at = [], np.zeros(shape).ravel()
    for strength in strengths:
        at = minimize(
            objective, at, args=(strength,), jac=True, method="L-BFGS-B",
            options={"maxiter": 2_000, "maxfun": 4_000, "gtol": 1e-6, "ftol": 1e-13, "maxcor": 20},
        ).x  # fmt: skip
        w = at.reshape(shape)
        found.append(Linear(mean, deviation, axes.T @ w[: len(scale)], w[-1] if intercept else np.zeros(n_out)))
    return found
