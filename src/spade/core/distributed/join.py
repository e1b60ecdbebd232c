"""One batch on several processes, each with a share of its images, with the embeddings and gradients of one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spade.core.distributed.ranks import Ranks

#: Prefix of weights whose gradient a process computes on its share of a batch.
SHARED_OUT = "vision."


class _Join(torch.autograd.Function):
    """Concatenate the ranks' rows; a rank's rows get their own gradient alone, as every rank computes the whole loss."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, n: int, ranks: Ranks) -> Tensor:
        ctx.rows = slice(ranks.rank, None, ranks.world)
        batch = rows.new_zeros(n, rows.shape[1])
        batch[ctx.rows] = rows
        ranks.add_up(batch)
        return batch

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.rows], None, None


def join_rows(rows: Tensor, n: int, ranks: Ranks) -> Tensor:
    """Return the embeddings of a batch of ``n`` rows; this rank has every ``world``-th of them, from its own number on."""
    return rows if ranks.alone else _Join.apply(rows, n, ranks)


def join_gradients(named: Sequence[tuple[str, nn.Parameter]], ranks: Ranks) -> None:
    """Add up the image tower's gradients, of which each rank has a share; average all others, which each rank has whole."""
    if ranks.alone:
        return
    chosen = [(name, p, p.grad) for name, p in named if p.grad is not None]
    flat = torch.cat([g.flatten() / (1 if name.startswith(SHARED_OUT) else ranks.world) for name, _, g in chosen])
    ranks.add_up(flat)
    for (_, p, gradient), part in zip(chosen, flat.split([g.numel() for *_, g in chosen]), strict=True):
        p.grad = part.view_as(gradient)
