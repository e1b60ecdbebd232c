"""Training of a head on bags of patches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from spade.core.checks import check_count
from spade.core.errors import NonFiniteLossError
from spade.core.rng import numpy_stream, torch_stream
from spade.core.slides.heads import Dropout


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
    bags, val_bags = [int(i) for i in train], [int(i) for i in val]
    if not bags:
        raise ValueError("train is empty: there is no bag to learn from.")
    if both := set(bags) & set(val_bags):
        raise ValueError(f"train and val both have the bags {sorted(both)[:5]}; they must have none in common.")
    for name, number in (("n_epochs", n_epochs), ("patience", patience), ("accumulate", accumulate)):
        check_count(name, number)
    head.to(device)
    dropout = torch_stream(seed, "dropout of bags", 0, torch.device(device).type)
    for module in head.modules():
        if isinstance(module, Dropout):
            module.generator = dropout
    order = numpy_stream(seed, "order of bags")
    optimiser = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=weight_decay)

    def loss_of(i: int, epoch: int) -> Tensor:
        value = loss(head(read(i).to(device, torch.float32))[0], i)
        if not torch.isfinite(value):
            raise NonFiniteLossError(f"bag {i}: the loss is {float(value.detach())} in epoch {epoch}; lower lr={lr:g}.")
        return value

    history: list[tuple[float, float]] = []
    best_loss, best_state, n_waited = math.inf, {}, 0
    for epoch in range(n_epochs):
        head.train()
        shuffled, total = order.permutation(bags).tolist(), 0.0
        for start in range(0, len(shuffled), accumulate):
            batch = shuffled[start : start + accumulate]
            optimiser.zero_grad(set_to_none=True)
            for i in batch:
                value = loss_of(i, epoch)
                (value / len(batch)).backward()
                total += float(value.detach())
            optimiser.step()
        head.eval()
        with torch.no_grad():
            val_loss = sum(float(loss_of(i, epoch)) for i in val_bags) / len(val_bags) if val_bags else math.nan
        history.append((total / len(bags), val_loss))
        if progress is not None:
            progress()
        if val_loss < best_loss:
            best_loss, n_waited = val_loss, 0
            best_state = {name: value.detach().clone() for name, value in head.state_dict().items()}
        elif val_bags:
            n_waited += 1
            if n_waited >= patience:
                break
    if best_state:
        head.load_state_dict(best_state)
    return history
