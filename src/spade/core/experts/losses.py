"""Contrastive losses between image and spot embeddings, one for every index of the leading dimensions (experts)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from spade.core.arrays import FAR


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * F.log_softmax(logits, dim=-1)).sum(-1)


def _mean(losses: Tensor, real: Tensor | None) -> Tensor:
    return losses.mean(-1) if real is None else (losses * real).sum(-1) / real.sum(-1)


def _pairs(real: Tensor) -> Tensor:
    return real.unsqueeze(-1) & real.unsqueeze(-2)


def soft_clip(image: Tensor, spot: Tensor, temperature: float | Tensor = 1.0, real: Tensor | None = None) -> Tensor:
    r"""Return the contrastive loss with soft targets, of embeddings that are not normalised.

    With :math:`L = S I^\top / \tau` and :math:`T = \mathrm{softmax}((I I^\top + S S^\top)/2 \cdot \tau)` by rows,
    the loss is the mean over i of :math:`[CE(L, T)_i + CE(L^\top, T^\top)_i]/2`. The gradient flows through T.

    Parameters
    ----------
    image, spot
        Embeddings ``(..., batch, d)`` of the same spots.
    temperature
        :math:`\tau`.
    real
        Mask ``(..., batch)`` of the rows that count; the others fill up the batch. None counts all rows.

    Returns
    -------
    Loss of shape ``(...)``.
    """
    logits = spot @ image.mT / temperature
    likeness = (image @ image.mT + spot @ spot.mT) / 2 * temperature
    if real is None:
        target = F.softmax(likeness, dim=-1)
    else:
        pairs = _pairs(real)
        logits = logits.masked_fill(~pairs, FAR)
        target = F.softmax(likeness.masked_fill(~pairs, FAR), dim=-1) * pairs
    return _mean(_cross_entropy(logits, target) + _cross_entropy(logits.mT, target.mT), real) / 2


def clip(image: Tensor, spot: Tensor, temperature: float | Tensor = 1.0, real: Tensor | None = None) -> Tensor:
    r"""Return the symmetric InfoNCE loss of L2-normalised embeddings.

    Parameters
    ----------
    image, spot
        Embeddings ``(..., batch, d)`` of the same spots.
    temperature
        :math:`\tau`; a tensor can be learned.
    real
        See :func:`soft_clip`.

    Returns
    -------
    Loss of shape ``(...)``.
    """
    logits = F.normalize(spot, dim=-1) @ F.normalize(image, dim=-1).mT / temperature
    if real is not None:
        logits = logits.masked_fill(~_pairs(real), FAR)
    rows = torch.diagonal(F.log_softmax(logits, dim=-1), dim1=-2, dim2=-1)
    columns = torch.diagonal(F.log_softmax(logits, dim=-2), dim1=-2, dim2=-1)
    return -_mean(rows + columns, real) / 2


LOSSES = {"soft_clip": soft_clip, "clip": clip}
