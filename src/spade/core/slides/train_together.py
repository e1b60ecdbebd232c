"""Training of a head with a loss that compares bags, of which one is in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from spade.core.arrays import Rows
from spade.core.errors import NonFiniteLossError
from spade.core.rng import numpy_stream
from spade.core.slides.epochs import EpochSettings, run_epochs, seed_dropout
from spade.core.slides.train import check_bags

#: From the outputs ``(n, n_out)`` of bags and their numbers to a scalar.
JointLoss = Callable[[Tensor, list[int]], Tensor]


def train_together(
    read: Callable[[int], Tensor],
    loss: JointLoss,
    deal: Callable[[np.random.Generator], Sequence[list[int]]],
    val: Sequence[int],
    head: nn.Module,
    *,
    settings: EpochSettings,
    seed: int = 0,
    device: str = "cpu",
) -> list[tuple[float, float]]:
    """Train a head with AdamW, a batch of bags per step, with a loss over all bags of a batch.

    Every bag of a batch is read twice: once for its outputs, from which loss and slopes follow, and once to pass its
    slope back. The gradient is that of the loss of the whole batch; memory holds one bag.

    Parameters
    ----------
    read
        From the number of a bag to its patches ``(n, d)``.
    loss
        From the outputs ``(n, n_out)`` of bags and their numbers to a mean over terms.
    deal
        From a generator to the batches of an epoch.
    val
        Numbers of the bags that select the epoch, by their loss as one batch; empty: the last epoch is kept.
    head
        A head from :func:`~spade.core.slides.heads.make_head`, with its initial weights.
    settings
        Epochs and optimiser.
    seed
        Seed of ``deal`` and dropout.
    device
        Torch device.

    Returns
    -------
    Loss per training bag and the loss over ``val`` (NaN if empty) of every epoch.

    Raises
    ------
    NonFiniteLossError
        The loss of a batch is NaN or infinite.
    """
    dropout, order = seed_dropout(head, seed, device), numpy_stream(seed, "order of bags")

    def output(i: int) -> Tensor:
        return head(read(i).to(device, torch.float32))[0]

    def value_of(outputs: Tensor, bags: list[int], epoch: int) -> Tensor:
        value = loss(outputs, bags)
        if not torch.isfinite(value):
            raise NonFiniteLossError(f"the loss is {float(value.detach())} in epoch {epoch}; lower lr={settings.lr:g}.")
        return value

    def step(batch: list[int], epoch: int) -> float:
        states, outputs = [], []
        with torch.no_grad():
            for i in batch:
                states.append(dropout.get_state())
                outputs.append(output(i))
        joined = torch.stack(outputs).requires_grad_()
        value = value_of(joined, batch, epoch)
        (slopes,) = torch.autograd.grad(value, joined)
        after = dropout.get_state()
        for i, state, slope in zip(batch, states, slopes, strict=True):
            dropout.set_state(state)  # the same values are dropped again
            output(i).backward(slope)
        dropout.set_state(after)
        return float(value.detach()) * len(batch)

    val_bags = list(map(int, val))

    def validate(epoch: int) -> float:
        return float(value_of(torch.stack([output(i) for i in val_bags]), val_bags, epoch)) if val_bags else math.nan

    def deal_checked() -> Sequence[list[int]]:
        batches = deal(order)
        check_bags([i for batch in batches for i in batch], val_bags)
        return batches

    return run_epochs(head, settings, deal_checked, step, validate)


def deal_with_events(group: Rows, event: Rows, size: int, rng: np.random.Generator) -> list[list[int]]:
    """Deal positions to batches of about ``size`` groups, each whole and every batch with an event.

    Parameters
    ----------
    group, event
        Group (patient) of every position, and whether it has the event, ``(n,)``.
    size
        Groups per batch; there are no more batches than groups with the event.
    rng
        Generator.
    """
    names, first = np.unique(group, return_index=True)
    with_event = event[first].astype(bool)
    n_batches = max(1, min(math.ceil(len(names) / size), int(with_event.sum())))
    dealt = np.concatenate([rng.permutation(names[with_event]), rng.permutation(names[~with_event])])
    return [np.flatnonzero(np.isin(group, dealt[start::n_batches])).tolist() for start in range(n_batches)]
