"""The losses of SEAL."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from spade.core.arrays import FAR

#: Variance up to which a gene counts as constant.
MIN_VARIANCE = 1e-8


def info_nce(image: Tensor, gene: Tensor, temperature: float, group: Tensor | None = None) -> Tensor:
    r"""Return the symmetric InfoNCE loss of L2-normalised embeddings of the same spots.

    Parameters
    ----------
    image, gene
        Embeddings ``(n, d)`` of both modalities.
    temperature
        :math:`\tau`.
    group
        Group of every row ``(n,)``, whose other rows are its negatives. None: all other rows are negatives.
    """
    logits = F.normalize(gene, dim=-1) @ F.normalize(image, dim=-1).mT / temperature
    if group is not None:
        logits = logits.masked_fill(group.unsqueeze(0) != group.unsqueeze(1), FAR)
    partner = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.mT, partner)) / 2


def correlations(predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Pearson correlation of every column of two ``(n, G)``, and whether the truth varies, both ``(G,)``.

    The correlation is 0 if the prediction is constant.
    """
    x, y = predicted - predicted.mean(0), truth - truth.mean(0)
    variance_x, variance_y = x.square().mean(0), y.square().mean(0)
    scale = (variance_x.clamp_min(MIN_VARIANCE) * variance_y.clamp_min(MIN_VARIANCE)).sqrt()
    return (x * y).mean(0) / scale, variance_y > MIN_VARIANCE


def reconstruction(predicted: Tensor, truth: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    r"""Return :math:`R = 0.1 (0.05 \sum_g (1 - \rho_g)^2 + 5 \, \mathrm{MSE})`.

    :math:`\rho_g` is the Pearson correlation of gene g over the batch; genes that do not vary in it are left out. The
    mean squared error is that of (value − mean)/deviation over spots and genes.

    Parameters
    ----------
    predicted, truth
        Expression ``(n, G)``.
    mean, deviation
        Mean and deviation of every gene in training ``(G,)``.
    """
    rho, varies = correlations(predicted, truth)
    squared = F.mse_loss((predicted - mean) / deviation, (truth - mean) / deviation)
    return 0.1 * (0.05 * ((1 - rho).square() * varies).sum() + 5 * squared)


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return -gradient


def reverse_gradient(x: Tensor) -> Tensor:
    """Return x, with its gradient reversed (Ganin et al. 2016): what precedes it learns to hinder what follows it."""
    return _Reverse.apply(x)
