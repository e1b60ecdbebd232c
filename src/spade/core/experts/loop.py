"""Training of several experts side by side, each with its own batches and number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spade.core.arrays import Rows
from spade.core.device import PRECISIONS
from spade.core.errors import NonFiniteLossError
from spade.core.experts.batches import BatchSource
from spade.core.experts.config import TrainingConfig
from spade.core.experts.heads import Experts
from spade.core.experts.losses import LOSSES
from spade.core.experts.parameters import ExpertParameters
from spade.core.schedule import cosine

#: Called with expert, epoch, training loss, and validation loss or NaN.
Progress = Callable[[int, int, float, float], None]


@dataclass
class Run:
    """One expert in training: its rows, its progress and its random streams.

    Attributes
    ----------
    expert
        Number of the expert.
    train, val
        Rows to train on, and rows whose loss selects the best epoch; without ``val`` the last epoch is the best.
    shuffling, dropout
        Random streams of the order of rows and of dropout.
    others, n_others
        Rows of other experts; every epoch adds ``n_others`` of them, drawn at random.
    step
        Number of steps taken.
    total
        Sum of the losses of the spots in this epoch so far. In training it is a number on the device, which is read
        only when needed.
    train_loss, val_loss
        Losses of the finished epochs.
    best_epoch
        Best epoch so far, −1 before the first one ends.
    best
        Row of :class:`~spade.core.experts.parameters.ExpertParameters` after the best epoch.
    drawn_from
        State of the shuffling stream before the order of this epoch was drawn, from which it can be drawn again.
    order
        Rows of this epoch in their order; None before it is drawn.
    """

    expert: int
    train: Rows
    val: Rows
    shuffling: torch.Generator
    dropout: torch.Generator
    others: Rows = field(default_factory=lambda: np.zeros(0, np.int64))
    n_others: int = 0
    step: int = 0
    total: float | Tensor = 0.0
    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    best_epoch: int = -1
    best: Tensor | None = None
    drawn_from: Tensor | None = None
    order: Rows | None = None

    @property
    def size(self) -> int:
        """Number of spots in an epoch."""
        return len(self.train) + self.n_others

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of batches in an epoch; the last may be short."""
        return math.ceil(self.size / batch_size)

    def rows(self, batch_size: int) -> Rows:
        """Return the rows of the next step; the first step of an epoch draws its order."""
        within = self.step % self.steps_per_epoch(batch_size)
        if self.order is None:
            if within == 0:
                self.drawn_from = self.shuffling.get_state()
            pool = self.train
            if self.n_others:
                drawn = torch.randperm(len(self.others), generator=self.shuffling)[: self.n_others]
                pool = np.concatenate([pool, self.others[drawn.numpy()]])
            self.order = pool[torch.randperm(len(pool), generator=self.shuffling).numpy()]
        return self.order[within * batch_size : (within + 1) * batch_size]


class Keep(Protocol):
    """A function that is called after every step of an expert."""

    def __call__(self, run: Run, row: int, *, finished: bool) -> None:
        """Keep the state of a run, whose parameters are one row; ``finished`` after the last step."""


def train_side_by_side(
    runs: Sequence[Run],
    parameters: ExpertParameters,
    batches: BatchSource,
    config: TrainingConfig,
    *,
    progress: Progress | None = None,
    keep: Keep | None = None,
) -> None:
    """Train experts side by side until each has taken all its steps; finished experts leave the batch.

    Parameters
    ----------
    runs
        One run per row of ``parameters``, in descending order of the steps left.
    parameters
        Parameters of the experts.
    batches
        Source of the batches.
    config
        Loss and optimiser.
    progress
        Called after every epoch of an expert.
    keep
        Called after every step of an expert.
    """
    device = parameters.values.device
    per_epoch = [run.steps_per_epoch(config.batch_size) for run in runs]
    steps_left = [config.n_epochs * n - run.step for n, run in zip(per_epoch, runs, strict=True)]
    if any(later > earlier for earlier, later in pairwise(steps_left)):
        raise ValueError("runs: expected a descending order of the steps left.")
    dtype = PRECISIONS[config.precision]
    module, n_active = parameters.module(0, len(runs)).compute_in(dtype), len(runs)
    totals = torch.tensor([float(run.total) for run in runs], dtype=torch.float64, device=device)
    for run, total in zip(runs, totals, strict=True):
        run.total = total
    for taken in range(max(steps_left, default=0)):
        n_left = sum(n > taken for n in steps_left)
        if n_left < n_active:
            module, n_active = parameters.module(0, n_left).compute_in(dtype), n_left
        active = runs[:n_active]
        rows = [run.rows(config.batch_size) for run in active]
        losses, gradients = _step(module, parameters.log_temperature(0, n_active), batches, rows, active, config)
        parameters.take(gradients)
        rates = [config.lr * cosine(run.step, config.n_epochs * n) for run, n in zip(active, per_epoch, strict=False)]
        parameters.update([run.step for run in active], rates, config.weight_decay)
        totals[:n_active] += losses.double() * torch.tensor([len(of_expert) for of_expert in rows], device=device)
        for i, run in enumerate(active):
            run.step += 1
            if run.step % per_epoch[i] == 0:
                _finish_epoch(run, parameters, i, batches, config)
                totals[i] = 0.0
                if progress is not None:
                    progress(run.expert, len(run.train_loss) - 1, run.train_loss[-1], run.val_loss[-1])
            if keep is not None:
                keep(run, i, finished=run.step == config.n_epochs * per_epoch[i])


def _step(
    module: Experts,
    log_temperature: Tensor,
    batches: BatchSource,
    rows: Sequence[Rows],
    runs: Sequence[Run],
    config: TrainingConfig,
) -> tuple[Tensor, Sequence[Tensor | None]]:
    """Return the losses ``(k,)`` of one batch per expert, and their gradients; None if the module has written them."""
    image, spot = batches.batch(rows)
    sizes = [len(of_expert) for of_expert in rows]
    real = None
    if min(sizes) < max(sizes):
        real = (torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(1)).to(image.device)
    masks: Sequence[Tensor | None] = (None, None)
    if config.dropout > 0:
        drawn = []
        for run, n in zip(runs, sizes, strict=True):
            uniform = torch.rand((2, n, config.dim), generator=run.dropout, device=image.device)
            drawn.append(F.pad(uniform, (0, 0, 0, max(sizes) - n)))
        masks = ((torch.stack(drawn, 1) >= config.dropout) / (1 - config.dropout)).unbind()
    learned: list[Tensor] = list(module.parameters())
    if config.learn_temperature:
        learned.append(log_temperature.requires_grad_())
    losses = _losses(module, image, spot, log_temperature, config, masks=masks, real=real)
    return losses.detach(), torch.autograd.grad(losses.sum(), learned, allow_unused=True)


def _losses(
    module: Experts,
    image: Tensor,
    spot: Tensor,
    log_temperature: Tensor,
    config: TrainingConfig,
    *,
    masks: Sequence[Tensor | None] = (None, None),
    real: Tensor | None = None,
) -> Tensor:
    """Return the loss ``(k,)`` of every expert; ``masks`` are dropout masks, ``real`` is that of rows that count."""
    joint = module.image_projection(image, masks[0]), module.spot_projection(spot, masks[1])
    return LOSSES[config.loss](*joint, log_temperature.exp().view(-1, 1, 1), real)


def _finish_epoch(
    run: Run, parameters: ExpertParameters, row: int, batches: BatchSource, config: TrainingConfig
) -> None:
    """Record the losses of the epoch, and keep its weights if it is the best so far."""
    epoch = len(run.train_loss)
    run.order = None
    total = float(run.total)
    run.train_loss.append(total / run.size)
    if not math.isfinite(total):
        raise NonFiniteLossError(
            f"expert {run.expert}: the loss is {total} in epoch {epoch}. Lower lr={config.lr:g}, or check the scale of "
            "the features and the expression."
        )
    run.val_loss.append(_validate(run, parameters, row, batches, config) if len(run.val) else math.nan)
    if len(run.val) and not math.isfinite(run.val_loss[-1]):
        raise NonFiniteLossError(
            f"expert {run.expert}: the loss of its validation spots is {run.val_loss[-1]} in epoch {epoch}. Check the "
            "scale of their features and expression."
        )
    if len(run.val):
        better = run.val_loss[-1] <= min(run.val_loss)
    else:
        better = epoch == config.n_epochs - 1
    if better:
        run.best_epoch, run.best = epoch, parameters.values[row].clone()


@torch.no_grad()
def _validate(run: Run, parameters: ExpertParameters, row: int, batches: BatchSource, config: TrainingConfig) -> float:
    """Return the mean loss of the validation spots."""
    module = parameters.module(row, row + 1).compute_in(PRECISIONS[config.precision])
    log_temperature = parameters.log_temperature(row, row + 1)
    total = 0.0
    for start in range(0, len(run.val), config.batch_size):
        rows = run.val[start : start + config.batch_size]
        total += float(_losses(module, *batches.batch([rows]), log_temperature, config)[0]) * len(rows)
    return total / len(run.val)
