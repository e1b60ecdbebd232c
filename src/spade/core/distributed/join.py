"""One batch on several processes, each with a share of its images: joined embeddings, and gradients that are those of one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spade.core.distributed.ranks import Ranks

#: Weights that each process sees only its share of a batch of.
SHARED_OUT = "vision."


class _Join(torch.autograd.Function):
    """Put the ranks' rows together; the gradient of a rank's rows is theirs alone, as every rank makes the whole loss."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, n: int, ranks: Ranks) -> Tensor:
        ctx.rows = slice(ranks.rank, None, ranks.world)
        whole = own.new_zeros(n, own.shape[1])
        whole[ctx.rows] = own
        ranks.add_up(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.rows], None, None


def join_rows(own: Tensor, n: int, ranks: Ranks) -> Tensor:
    """Return the embeddings of a batch of ``n`` rows, of which this rank has every ``world``-th from its own number on."""
    return _Join.apply(own, n, ranks)


def join_gradients(named: Sequence[tuple[str, nn.Parameter]], ranks: Ranks) -> None:
    """Add up what the ranks' shares of the images ask of the image tower; of the rest, which every rank sees whole, take the mean."""
    chosen = [(name, p, p.grad) for name, p in named if p.grad is not None]
    flat = torch.cat([g.flatten() / (1 if name.startswith(SHARED_OUT) else ranks.world) for name, _, g in chosen])
    ranks.add_up(flat)
    for (_, p, gradient), part in zip(chosen, flat.split([g.numel() for *_, g in chosen]), strict=True):
        p.grad = part.view_as(gradient)
