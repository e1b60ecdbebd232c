"""Train a head on bags of patches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

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
    """Train a head on bags that are read one at a time.

    AdamW, every training bag once an epoch in an order drawn anew. The head is left on ``device`` in evaluation mode with the weights
    of the epoch whose mean loss over ``val`` is lowest; with an empty ``val``, of the last.

    Parameters
    ----------
    read
        From the number of a bag to its patches ``(n, d)``.
    loss
        From outputs and the number of the bag to a scalar.
    train, val
        Numbers of the bags that teach, and of those that select the epoch.
    head
        From :func:`make_head`.
    n_epochs, lr, weight_decay
        Of AdamW.
    patience
        Epochs without a lower loss over ``val`` after which it ends.
    seed
        Of order and dropout; the weights to begin with are the head's.
    device
        Of torch.
    accumulate
        Bags per update, which takes the mean of their losses.
    progress
        Called after every epoch.

    Returns
    -------
    Mean loss over ``train`` and over ``val`` (NaN if empty) of every epoch.

    Raises
    ------
    NonFiniteLossError
        The loss of a bag is NaN or infinite.
    ValueError
        No bags, or the same in ``train`` and ``val``.
    """
    own, others = [int(i) for i in train], [int(i) for i in val]
    if not own:
        raise ValueError("train is empty: there is no bag to learn from.")
    if both := set(own) & set(others):
        raise ValueError(f"train and val share {len(both)} bags, such as {min(both)}; they must have none in common.")
    for name, value in (("n_epochs", n_epochs), ("patience", patience), ("accumulate", accumulate)):
        if value < 1:
            raise ValueError(f"{name}={value!r}: expected a whole number of at least 1.")
    head.to(device)
    drops = torch_stream(seed, "dropout of bags", 0, torch.device(device).type)
    for module in head.modules():
        if isinstance(module, Dropout):
            module.generator = drops
    order = numpy_stream(seed, "order of bags")
    optimiser = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=weight_decay)

    def of_bag(i: int, epoch: int) -> Tensor:
        found = loss(head(read(i).to(device, torch.float32))[0], i)
        if not torch.isfinite(found):
            raise NonFiniteLossError(f"bag {i}: the loss is {float(found.detach())} in epoch {epoch}; lower lr={lr:g}.")
        return found

    history: list[tuple[float, float]] = []
    best, kept, waited = math.inf, {}, 0
    for epoch in range(n_epochs):
        head.train()
        shuffled, total = order.permutation(own).tolist(), 0.0
        for start in range(0, len(shuffled), accumulate):
            group = shuffled[start : start + accumulate]
            optimiser.zero_grad(set_to_none=True)
            for i in group:
                found = of_bag(i, epoch)
                (found / len(group)).backward()
                total += float(found.detach())
            optimiser.step()
        head.eval()
        with torch.no_grad():
            of_val = sum(float(of_bag(i, epoch)) for i in others) / len(others) if others else math.nan
        history.append((total / len(own), of_val))
        if progress is not None:
            progress()
        if of_val < best:
            best, waited = of_val, 0
            kept = {name: value.detach().clone() for name, value in head.state_dict().items()}
        elif others:
            waited += 1
            if waited >= patience:
                break
    if kept:
        head.load_state_dict(kept)
    return history
