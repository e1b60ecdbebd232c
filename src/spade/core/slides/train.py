"""Training of a head on bags of patches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from spade.core.checks import check_count
from spade.core.errors import NonFiniteLossError
from spade.core.rng import numpy_stream
from spade.core.slides.epochs import EpochSettings, run_epochs, seed_dropout


def train_bags(
    read: Callable[[int], Tensor],
    loss: Callable[[Tensor, int], Tensor],
    train: Sequence[int],
    val: Sequence[int],
    head: nn.Module,
    *,
    n_epochs: int = 20,
    lr: float = 2e-4,
    weight_decay: float = 1e-5,
    patience: int = 5,
    schedule: str = "constant",
    seed: int = 0,
    device: str = "cpu",
    accumulate: int = 1,
    progress: Callable[[], None] | None = None,
) -> list[tuple[float, float]]:
    """Train a head with AdamW on bags that are read one at a time.

    Every epoch reads all training bags once, in a new random order. The head stays on ``device``, in evaluation mode,
    with the weights of the epoch that has the lowest mean loss over ``val``, or of the last epoch if ``val`` is empty.

    Parameters
    ----------
    read
        From the number of a bag to its patches ``(n, d)``.
    loss
        From the outputs for a bag and its number to a scalar.
    train, val
        Numbers of the bags to train on, and of those that select the epoch.
    head
        A head from :func:`~spade.core.slides.heads.make_head`, with its initial weights.
    n_epochs, lr, weight_decay
        Number of epochs, and settings of AdamW.
    patience
        Number of epochs without a lower loss over ``val`` after which training ends.
    schedule
        ``"constant"``, or ``"cosine"``: the rate falls to 0 over all steps of ``n_epochs``.
    seed
        Seed of order and dropout.
    device
        Torch device.
    accumulate
        Bags per update, which takes the mean of their losses.
    progress
        Called after every epoch.

    Returns
    -------
    Mean losses over ``train`` and over ``val`` (NaN if empty) of every epoch.

    Raises
    ------
    NonFiniteLossError
        The loss of a bag is NaN or infinite.
    ValueError
        ``train`` is empty, or shares bags with ``val``.
    """
    bags, val_bags = check_bags(train, val)
    check_count("accumulate", accumulate)
    settings = EpochSettings(n_epochs=n_epochs, lr=lr, weight_decay=weight_decay, patience=patience, schedule=schedule)
    seed_dropout(head, seed, device)
    order = numpy_stream(seed, "order of bags")

    def loss_of(i: int, epoch: int) -> Tensor:
        value = loss(head(read(i).to(device, torch.float32))[0], i)
        if not torch.isfinite(value):
            raise NonFiniteLossError(f"bag {i}: the loss is {float(value.detach())} in epoch {epoch}; lower lr={lr:g}.")
        return value

    def deal() -> list[list[int]]:
        shuffled = order.permutation(bags).tolist()
        return [shuffled[start : start + accumulate] for start in range(0, len(shuffled), accumulate)]

    def step(batch: list[int], epoch: int) -> float:
        total = 0.0
        for i in batch:
            value = loss_of(i, epoch)
            (value / len(batch)).backward()
            total += float(value.detach())
        return total

    def validate(epoch: int) -> float:
        return sum(float(loss_of(i, epoch)) for i in val_bags) / len(val_bags) if val_bags else math.nan

    return run_epochs(head, settings, deal, step, validate, progress)


def check_bags(train: Sequence[int], val: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the numbers of the bags of both parts; raise if there is none to learn from, or one in both."""
    bags, val_bags = [int(i) for i in train], [int(i) for i in val]
    if not bags:
        raise ValueError("train is empty: there is no bag to learn from.")
    if both := set(bags) & set(val_bags):
        raise ValueError(f"train and val both have the bags {sorted(both)[:5]}; they must have none in common.")
    return bags, val_bags
