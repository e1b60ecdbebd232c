"""The losses of SEAL."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from spade.core.arrays import FAR

#: Variance below which a gene counts as constant.
TINY = 1e-8


def info_nce(image: Tensor, gene: Tensor, temperature: float, group: Tensor | None = None) -> Tensor:
    r"""Symmetric InfoNCE on L2-normalised embeddings ``(n, d)`` of the same spots.

    Parameters
    ----------
    image, gene
        Embeddings of both sides.
    temperature
        :math:`\tau`.
    group
        ``(n,)``: only rows of the same group are told apart; None: all.
    """
    logits = F.normalize(gene, dim=-1) @ F.normalize(image, dim=-1).mT / temperature
    if group is not None:
        logits = logits.masked_fill(group.unsqueeze(0) != group.unsqueeze(1), FAR)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.mT, own)) / 2


def correlations(predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Pearson correlation of every column of two ``(n, G)`` over rows, 0 where the prediction is constant, and where the truth varies."""
    x, y = predicted - predicted.mean(0), truth - truth.mean(0)
    spread_x, spread_y = x.square().mean(0), y.square().mean(0)
    both = (spread_x.clamp_min(TINY) * spread_y.clamp_min(TINY)).sqrt()
    return (x * y).mean(0) / both, spread_y > TINY


def reconstruction(predicted: Tensor, truth: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    r"""Return :math:`R = 0.1 (0.05 \sum_g (1 - \rho_g)^2 + 5 \, \mathrm{MSE})`.

    :math:`\rho_g` is the Pearson correlation of gene g over the batch, for genes that vary there; the mean squared error is that of
    (value − mean)/deviation over spots and genes.

    Parameters
    ----------
    predicted, truth
        ``(n, G)``.
    mean, deviation
        Of every gene in training ``(G,)``.
    """
    found, varies = correlations(predicted, truth)
    squared = F.mse_loss((predicted - mean) / deviation, (truth - mean) / deviation)
    return 0.1 * (0.05 * ((1 - found).square() * varies).sum() + 5 * squared)


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return -gradient


def reverse_gradient(x: Tensor) -> Tensor:
    """Return x, but with its gradient turned round (Ganin et al. 2016): what comes before learns what comes after must not know."""
    return _Reverse.apply(x)
