"""One batch on several processes, each of which encodes a share of the images; the result is that of one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spade.core.distributed.ranks import Ranks

#: Prefix of the weights that see only their process's share of a batch.
IMAGE_TOWER = "vision."


class _Join(torch.autograd.Function):
    """Join the rows of all ranks. The gradient of a rank's rows needs no sum, as every rank computes the whole loss."""

    @staticmethod
    def forward(ctx: Any, own_rows: Tensor, n: int, ranks: Ranks) -> Tensor:
        ctx.rows = slice(ranks.rank, None, ranks.world)
        joined = own_rows.new_zeros(n, own_rows.shape[1])
        joined[ctx.rows] = own_rows
        ranks.add_up(joined)
        return joined

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.rows], None, None


def join_rows(own_rows: Tensor, n: int, ranks: Ranks) -> Tensor:
    """Return the embeddings of all ``n`` rows of a batch; rank r of ``world`` has the rows r, r + world, and so on."""
    return own_rows if ranks.alone else _Join.apply(own_rows, n, ranks)


def join_gradients(named: Sequence[tuple[str, nn.Parameter]], ranks: Ranks) -> None:
    """Join the gradients of all ranks in place.

    The gradients of the image tower come from shares of the images and are added up. All others come from the whole
    batch on every rank and are averaged.
    """
    if ranks.alone:
        return
    given = [(name, p, p.grad) for name, p in named if p.grad is not None]
    joined = torch.cat([g.flatten() / (1 if name.startswith(IMAGE_TOWER) else ranks.world) for name, _, g in given])
    ranks.add_up(joined)
    for (_, p, gradient), values in zip(given, joined.split([g.numel() for *_, g in given]), strict=True):
        p.grad = values.view_as(gradient)
