"""Projection heads of all experts, stacked along the first dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spade.core.checks import check_choice

ALL_EXPERTS = slice(None)
#: How the embeddings of experts are combined.
MIXES = ("mean", "concat", "logits")


def _products(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the matrix product of every expert; a single expert needs no batch, which is faster on a CPU."""
    if len(a) == 1:
        return torch.mm(a[0], b[0], out=None if out is None else out[0]).unsqueeze(0)
    return torch.bmm(a, b, out=out)


class _Linear(torch.autograd.Function):
    """``x Wᵀ + b`` for every expert.

    ``rounded`` is an array of the shape of W with fewer bits, whose type the products have. ``into`` is where the
    gradient of W is written, instead of returned to autograd. Neither needs a new array of the size of W, which would
    cost as much as a product.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, rounded: Tensor | None, into: Tensor | None
    ) -> Tensor:
        if rounded is not None:
            x, weight = x.to(rounded.dtype), rounded.copy_(weight)
        ctx.rounded, ctx.into = rounded, into
        ctx.save_for_backward(x, weight)
        return _products(x, weight.mT).to(bias.dtype).add_(bias.unsqueeze(1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor, None, None]:
        (x, weight), (gradient,) = ctx.saved_tensors, gradients
        of_bias, rounded = gradient.sum(1), gradient.to(x.dtype)
        of_x = _products(rounded, weight).to(gradient.dtype) if ctx.needs_input_grad[0] else None
        into = torch.empty_like(weight, dtype=gradient.dtype) if ctx.into is None else ctx.into
        if ctx.rounded is None:
            _products(x.mT, rounded, out=into.mT)
        else:
            into.copy_(_products(x.mT, rounded, out=ctx.rounded.mT).mT)
        return of_x, into if ctx.into is None else None, of_bias, None, None


class StackedLinear(nn.Module):
    """``n_experts`` linear layers side by side: ``(E, B, d_in) -> (E, B, d_out)``.

    Attributes
    ----------
    dtype
        Type of the products.
    gradient
        Where the gradient of the weights is written. None returns it through autograd, as for any parameter.
    """

    def __init__(self, n_experts: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_experts, d_out, d_in))
        self.bias = nn.Parameter(torch.zeros(n_experts, d_out))
        self.dtype = torch.float32
        self.gradient: Tensor | None = None
        self._rounded: Tensor | None = None

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Draw weights and biases from U(−1/√d_in, 1/√d_in), as torch does, from one stream per expert."""
        bound = 1 / math.sqrt(self.weight.shape[-1])
        with torch.no_grad():
            for e, generator in enumerate(generators):
                for value in (self.weight[e], self.bias[e]):
                    value.copy_(torch.empty(value.shape).uniform_(-bound, bound, generator=generator))

    def forward(self, x: Tensor, which: slice = ALL_EXPERTS) -> Tensor:
        """Apply layer e to ``x[e]``; ``which`` selects some experts."""
        weight: Tensor = self.weight[which]
        if self.dtype == weight.dtype:
            self._rounded = None
        elif self._rounded is None:
            self._rounded = torch.empty_like(weight, dtype=self.dtype, requires_grad=False)
        return _Linear.apply(x, weight, self.bias[which], self._rounded, self.gradient)


class StackedLayerNorm(nn.Module):
    """``n_experts`` layer normalisations over the last dimension."""

    def __init__(self, n_experts: int, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_experts, d))
        self.bias = nn.Parameter(torch.zeros(n_experts, d))

    def forward(self, x: Tensor, which: slice = ALL_EXPERTS) -> Tensor:
        """Normalise ``(E, B, d)``."""
        return F.layer_norm(x, x.shape[-1:]) * self.weight[which].unsqueeze(1) + self.bias[which].unsqueeze(1)


class Head(nn.Module):
    """``h = W1 x + b1``; ``y = LayerNorm(Dropout(W2 GELU(h) + b2) + h)``, for every expert."""

    def __init__(self, n_experts: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.projection = StackedLinear(n_experts, d_in, d_out)
        self.fc = StackedLinear(n_experts, d_out, d_out)
        self.layer_norm = StackedLayerNorm(n_experts, d_out)

    def forward(self, x: Tensor, keep: Tensor | None = None, which: slice = ALL_EXPERTS) -> Tensor:
        """Project ``(E, B, d_in)`` to ``(E, B, d_out)``; ``keep`` is the scaled dropout mask of training."""
        h = self.projection(x, which)
        y = self.fc(F.gelu(h), which)
        return self.layer_norm((y if keep is None else y * keep) + h, which)


class Experts(nn.Module):
    """Image and spot heads of all experts; names are those of the published checkpoints, with one more dimension."""

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

    def compute_in(self, dtype: torch.dtype) -> Experts:
        """Compute the products of the first layers, nearly all of the work, in another type; outputs stay float32."""
        self.image_projection.projection.dtype = self.spot_projection.projection.dtype = dtype
        return self

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Initialise every expert from its own stream."""
        for head in (self.image_projection, self.spot_projection):
            head.projection.initialise(generators)
            head.fc.initialise(generators)
            nn.init.ones_(head.layer_norm.weight)
            nn.init.zeros_(head.layer_norm.bias)


@torch.no_grad()
def mix_experts(head: Head, x: Tensor, weights: Tensor, mix: str = "mean") -> Tensor:
    """Embed ``x`` with all experts, and combine the embeddings by ``weights``.

    Parameters
    ----------
    head
        The heads of one modality.
    x
        Input ``(n, d_in)``.
    weights
        Routing weights ``(n, E)``.
    mix
        ``"mean"``: Σ_e w_e f_e(x), ``(n, d)``; ``"concat"``: all w_e f_e(x), concatenated, ``(n, E·d)``; ``"logits"``:
        all w_e f_e(x)/‖f_e(x)‖, concatenated. Products of these with unweighted ones are Σ_e w_e cos(f_e(x), f_e(y)).

    Returns
    -------
    The mixture.
    """
    check_choice("mix", mix, MIXES)
    n, n_experts = weights.shape
    out = torch.zeros(n, 1 if mix == "mean" else n_experts, head.fc.bias.shape[1], device=x.device)
    for e in range(n_experts):
        rows = weights[:, e].nonzero().squeeze(1)  # NaN counts as a weight; with hard routing most are 0
        routed = x if len(rows) == n else x[rows]
        embedded = head(routed.unsqueeze(0), which=slice(e, e + 1))[0]
        if mix == "logits":
            embedded = F.normalize(embedded, dim=-1)
        embedded *= weights[rows, e].unsqueeze(1)
        place = out[:, 0 if mix == "mean" else e]
        if len(rows) == n:
            place += embedded
        else:
            place.index_add_(0, rows, embedded)
    return out.flatten(1)
