"""Projection heads of all experts, stacked along the first dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Linear(torch.autograd.Function):
    """``x Wᵀ + b`` for every expert, with a gradient of W that lies in memory as W does, as fused optimisers need it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        (x, weight), (gradient,) = ctx.saved_tensors, gradients
        of_x = gradient @ weight if ctx.needs_input_grad[0] else None
        return of_x, gradient.mT @ x, gradient.sum(1)


class StackedLinear(nn.Module):
    """``n_experts`` linear layers side by side: ``(E, B, d_in) -> (E, B, d_out)``."""

    def __init__(self, n_experts: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_experts, d_out, d_in))
        self.bias = nn.Parameter(torch.zeros(n_experts, d_out))

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Draw weights and biases from U(−1/√d_in, 1/√d_in), as torch does, one stream per expert."""
        bound = 1 / math.sqrt(self.weight.shape[-1])
        with torch.no_grad():
            for e, generator in enumerate(generators):
                self.weight[e].uniform_(-bound, bound, generator=generator)
                self.bias[e].uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Apply layer e to ``x[e]``."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if torch.is_autocast_enabled(x.device.type):
            x, weight, bias = (value.to(torch.get_autocast_dtype(x.device.type)) for value in (x, weight, bias))
        return _Linear.apply(x, weight, bias)


class StackedLayerNorm(nn.Module):
    """``n_experts`` layer normalisations over the last dimension."""

    def __init__(self, n_experts: int, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_experts, d))
        self.bias = nn.Parameter(torch.zeros(n_experts, d))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(E, B, d)``."""
        return F.layer_norm(x, x.shape[-1:]) * self.weight.unsqueeze(1) + self.bias.unsqueeze(1)


class Head(nn.Module):
    """``h = W1 x + b1``; ``y = LayerNorm(Dropout(W2 GELU(h) + b2) + h)``, for every expert."""

    def __init__(self, n_experts: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.projection = StackedLinear(n_experts, d_in, d_out)
        self.fc = StackedLinear(n_experts, d_out, d_out)
        self.layer_norm = StackedLayerNorm(n_experts, d_out)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Project ``(E, B, d_in)`` to ``(E, B, d_out)``; ``keep`` is the scaled dropout mask while training."""
        h = self.projection(x)
        y = self.fc(F.gelu(h))
        return self.layer_norm((y if keep is None else y * keep) + h)


class Experts(nn.Module):
    """Image and spot heads of all experts, named as in the published checkpoints, with a leading expert dimension."""

    def __init__(self, n_experts: int, d_image: int, d_spot: int, d_out: int = 256) -> None:
        super().__init__()
        self.image_projection = Head(n_experts, d_image, d_out)
        self.spot_projection = Head(n_experts, d_spot, d_out)

    @property
    def n_experts(self) -> int:
        """Number of experts."""
        return self.image_projection.fc.bias.shape[0]

    @property
    def dim(self) -> int:
        """Width of the joint space of one expert."""
        return self.image_projection.fc.bias.shape[1]

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Initialise every expert from its own stream."""
        for head in (self.image_projection, self.spot_projection):
            head.projection.initialise(generators)
            head.fc.initialise(generators)
            nn.init.ones_(head.layer_norm.weight)
            nn.init.zeros_(head.layer_norm.bias)


@torch.no_grad()
def mix_experts(head: Head, x: Tensor, weights: Tensor, mix: str = "mean") -> Tensor:
    """Embed ``x`` by all experts and combine them by ``weights``.

    Parameters
    ----------
    head
        The heads of one modality.
    x
        Input ``(n, d_in)``.
    weights
        Routing weights ``(n, E)``.
    mix
        ``"mean"``: Σ_e w_e f_e(x), ``(n, d)``; ``"concat"``: every w_e f_e(x) side by side, ``(n, E·d)``.

    Returns
    -------
    The mixture.
    """
    outputs = head(x.expand(weights.shape[1], *x.shape))
    if mix == "mean":
        return torch.einsum("end,ne->nd", outputs, weights)
    if mix == "concat":
        return torch.einsum("end,ne->ned", outputs, weights).flatten(1)
    raise ValueError(f'mix={mix!r}: expected "mean" or "concat".')
