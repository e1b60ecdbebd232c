"""Contrastive losses between image and spot embeddings; leading dimensions (experts) are kept apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * F.log_softmax(logits, dim=-1)).sum(-1)


def soft_clip(image: Tensor, spot: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    r"""Contrastive loss with soft targets, on head outputs that are not normalised.

    With :math:`L = S I^\top / \tau` and :math:`T = \mathrm{softmax}((I I^\top + S S^\top)/2 \cdot \tau)` by rows,
    the loss is the mean over i of :math:`[CE(L, T)_i + CE(L^\top, T^\top)_i]/2`. The gradient flows through T.

    Parameters
    ----------
    image, spot
        Embeddings ``(..., batch, d)`` of the same spots.
    temperature
        :math:`\tau`.

    Returns
    -------
    Loss of shape ``(...)``.
    """
    logits = spot @ image.mT / temperature
    target = F.softmax((image @ image.mT + spot @ spot.mT) / 2 * temperature, dim=-1)
    return (_cross_entropy(logits, target) + _cross_entropy(logits.mT, target.mT)).mean(-1) / 2


def clip(image: Tensor, spot: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    r"""Symmetric InfoNCE on L2-normalised embeddings.

    Parameters
    ----------
    image, spot
        Embeddings ``(..., batch, d)`` of the same spots.
    temperature
        :math:`\tau`; a tensor makes it learnable.

    Returns
    -------
    Loss of shape ``(...)``.
    """
    logits = F.normalize(spot, dim=-1) @ F.normalize(image, dim=-1).mT / temperature
    rows = torch.diagonal(F.log_softmax(logits, dim=-1), dim1=-2, dim2=-1)
    columns = torch.diagonal(F.log_softmax(logits, dim=-2), dim1=-2, dim2=-1)
    return -(rows + columns).mean(-1) / 2


LOSSES = {"soft_clip": soft_clip, "clip": clip}
