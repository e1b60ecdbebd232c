"""The loop over epochs that trains a head: its optimiser and schedule, and the epoch that is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from spade.core.checks import check_choice, check_count
from spade.core.rng import torch_stream
from spade.core.schedule import cosine
from spade.core.slides.heads import Dropout

SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True, kw_only=True)
class EpochSettings:
    """Epochs, AdamW, the schedule of its rate, and the epochs without a lower loss after which training ends."""

    n_epochs: int = 20
    lr: float = 2e-4
    weight_decay: float = 1e-5
    patience: int = 5
    schedule: str = "constant"

    def __post_init__(self) -> None:
        """Check what can be wrong by one."""
        check_count("n_epochs", self.n_epochs)
        check_count("patience", self.patience)
        check_choice("schedule", self.schedule, SCHEDULES)


def seed_dropout(head: nn.Module, seed: int, device: str) -> torch.Generator:
    """Move a head to a device, and give its dropout a stream of its own, which is returned."""
    head.to(device)
    dropout = torch_stream(seed, "dropout of bags", 0, torch.device(device).type)
    for module in head.modules():
        if isinstance(module, Dropout):
            module.generator = dropout
    return dropout


def run_epochs(
    head: nn.Module,
    settings: EpochSettings,
    deal: Callable[[], Sequence[list[int]]],
    step: Callable[[list[int], int], float],
    validate: Callable[[int], float],
    progress: Callable[[], None] | None = None,
) -> list[tuple[float, float]]:
    """Train a head, and leave it in evaluation mode with the weights of its best epoch.

    Parameters
    ----------
    head
        The head, on its device.
    settings
        Number of epochs and optimiser. With ``"cosine"`` the rate falls to 0 over all steps of all epochs.
    deal
        Returns the batches of an epoch, as many in every one.
    step
        From a batch and the epoch to the summed loss of the batch; leaves its gradients in the head.
    validate
        From the epoch to the loss that selects it, NaN if there is none: the last epoch is then kept.
    progress
        Called after every epoch.

    Returns
    -------
    Mean losses over training bags, and those that select, of every epoch.
    """
    optimiser = torch.optim.AdamW(head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    history: list[tuple[float, float]] = []
    best_loss, best_state, n_waited, n_steps = math.inf, {}, 0, 0
    for epoch in range(settings.n_epochs):
        head.train()
        batches, total = deal(), 0.0
        for batch in batches:
            if settings.schedule == "cosine":
                for group in optimiser.param_groups:
                    group["lr"] = settings.lr * cosine(n_steps, settings.n_epochs * len(batches))
            optimiser.zero_grad(set_to_none=True)
            total += step(batch, epoch)
            optimiser.step()
            n_steps += 1
        head.eval()
        with torch.no_grad():
            val_loss = validate(epoch)
        history.append((total / sum(map(len, batches)), val_loss))
        if progress is not None:
            progress()
        if val_loss < best_loss:
            best_loss, n_waited = val_loss, 0
            best_state = {name: value.detach().clone() for name, value in head.state_dict().items()}
        elif not math.isnan(val_loss):
            n_waited += 1
            if n_waited >= settings.patience:
                break
    if best_state:
        head.load_state_dict(best_state)
    return history
