"""Train several experts side by side, each at its own pace; with one expert it is plain training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spade.core.device import PRECISIONS
from spade.core.errors import NonFiniteLossError
from spade.core.experts.batches import BatchSource, Rows
from spade.core.experts.config import TrainingConfig
from spade.core.experts.heads import Experts
from spade.core.experts.losses import LOSSES
from spade.core.experts.parameters import ExpertParameters
from spade.core.schedule import cosine

#: (expert, epoch, training loss, validation loss or NaN)
Progress = Callable[[int, int, float, float], None]


@dataclass
class Run:
    """One expert in training: its rows, how far it is, and its random streams.

    Attributes
    ----------
    expert
        Number of the expert, which selects its streams.
    train, val
        Rows to train on, and rows whose loss selects the epoch; without ``val`` the last epoch is kept.
    others, n_others
        Rows of other experts, of which so many, drawn anew, are added in every epoch.
    step
        Steps taken.
    total
        Sum of the losses of the spots of this epoch so far; while training a number on the device, which is read only when needed.
    train_loss, val_loss
        One value per finished epoch.
    best_epoch
        Epoch that is kept, −1 before there is one.
    best
        Its row of :class:`~spade.core.experts.parameters.ExpertParameters`.
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
    #: State of the shuffling stream before the order of this epoch was drawn, from which it can be drawn again.
    drawn_from: Tensor | None = None
    order: Rows | None = None

    @property
    def size(self) -> int:
        """Spots of an epoch."""
        return len(self.train) + self.n_others

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches of an epoch; the last may be short."""
        return math.ceil(self.size / batch_size)

    def rows(self, batch_size: int) -> Rows:
        """Rows of the coming step; draws the order of an epoch when it begins."""
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


def train_side_by_side(
    runs: Sequence[Run],
    flat: ExpertParameters,
    feed: BatchSource,
    config: TrainingConfig,
    *,
    progress: Progress | None = None,
    keep: Callable[[Run, int, bool], None] | None = None,
) -> None:
    """Train experts side by side until each has taken all its steps; those that have finished leave the batch.

    Parameters
    ----------
    runs
        One per row of ``flat``, those with more steps to come first.
    flat
        Their parameters.
    feed
        Batches.
    config
        Loss and optimiser.
    progress
        Called after every epoch of an expert.
    keep
        Called after every step of an expert with the run, its row, and whether it has finished.
    """
    device = flat.values.device
    per_epoch = [run.steps_per_epoch(config.batch_size) for run in runs]
    to_come = [config.n_epochs * n - run.step for n, run in zip(per_epoch, runs, strict=True)]
    if any(later > earlier for earlier, later in pairwise(to_come)):
        raise ValueError("runs: those with more steps to come must stand first.")
    dtype = PRECISIONS[config.precision]
    module, active = flat.module(0, len(runs)).compute_in(dtype), len(runs)
    totals = torch.tensor([float(run.total) for run in runs], dtype=torch.float64, device=device)
    for run, total in zip(runs, totals, strict=True):
        run.total = total
    for taken in range(max(to_come, default=0)):
        now = sum(n > taken for n in to_come)
        if now < active:
            module, active = flat.module(0, now).compute_in(dtype), now
        current = runs[:now]
        rows = [run.rows(config.batch_size) for run in current]
        losses, gradients = _step(module, flat.log_temperature(0, now), feed, rows, current, config)
        flat.take(gradients)
        rates = [config.lr * cosine(run.step, config.n_epochs * n) for run, n in zip(current, per_epoch, strict=False)]
        flat.update([run.step for run in current], rates, config.weight_decay)
        totals[:now] += losses.double() * torch.tensor([len(own) for own in rows], device=device)
        for i, run in enumerate(current):
            run.step += 1
            if run.step % per_epoch[i] == 0:
                _finish_epoch(run, flat, i, feed, config)
                totals[i] = 0.0
                if progress is not None:
                    progress(run.expert, len(run.train_loss) - 1, run.train_loss[-1], run.val_loss[-1])
            if keep is not None:
                keep(run, i, run.step == config.n_epochs * per_epoch[i])


def _step(
    module: Experts,
    log_temperature: Tensor,
    feed: BatchSource,
    rows: Sequence[Rows],
    runs: Sequence[Run],
    config: TrainingConfig,
) -> tuple[Tensor, Sequence[Tensor | None]]:
    """Losses ``(k,)`` of one batch per expert, and their gradients; None: the module has put it in its place."""
    image, spot = feed.batch(rows)
    sizes = [len(own) for own in rows]
    real = None
    if min(sizes) < max(sizes):
        real = (torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(1)).to(image.device)
    masks: Sequence[Tensor | None] = (None, None)
    if config.dropout > 0:
        drawn = []
        for run, n in zip(runs, sizes, strict=True):
            own = torch.rand((2, n, config.dim), generator=run.dropout, device=image.device)
            drawn.append(F.pad(own, (0, 0, 0, max(sizes) - n)))
        masks = ((torch.stack(drawn, 1) >= config.dropout) / (1 - config.dropout)).unbind()
    parameters: list[Tensor] = list(module.parameters())
    if config.learn_temperature:
        parameters.append(log_temperature.requires_grad_())
    losses = _losses(module, image, spot, log_temperature, config, masks, real)
    return losses.detach(), torch.autograd.grad(losses.sum(), parameters, allow_unused=True)


def _losses(
    module: Experts,
    image: Tensor,
    spot: Tensor,
    log_temperature: Tensor,
    config: TrainingConfig,
    masks: Sequence[Tensor | None] = (None, None),
    real: Tensor | None = None,
) -> Tensor:
    joint = module.image_projection(image, masks[0]), module.spot_projection(spot, masks[1])
    return LOSSES[config.loss](*joint, log_temperature.exp().view(-1, 1, 1), real)


def _finish_epoch(run: Run, flat: ExpertParameters, row: int, feed: BatchSource, config: TrainingConfig) -> None:
    """Note the losses of the epoch, and keep its weights if it is the best."""
    epoch = len(run.train_loss)
    run.order = None
    total = float(run.total)
    run.train_loss.append(total / run.size)
    if not math.isfinite(total):
        raise NonFiniteLossError(
            f"expert {run.expert}: the loss is {total} in epoch {epoch}. Lower lr={config.lr:g}, or check the scale of the "
            "features and the expression."
        )
    run.val_loss.append(_validate(run, flat, row, feed, config) if len(run.val) else math.nan)
    if len(run.val) and not math.isfinite(run.val_loss[-1]):
        raise NonFiniteLossError(
            f"expert {run.expert}: the loss of its validation spots is {run.val_loss[-1]} in epoch {epoch}. Check the scale of their "
            "features and expression."
        )
    if len(run.val):
        better = run.val_loss[-1] <= min(run.val_loss)
    else:
        better = epoch == config.n_epochs - 1
    if better:
        run.best_epoch, run.best = epoch, flat.values[row].clone()


@torch.no_grad()
def _validate(run: Run, flat: ExpertParameters, row: int, feed: BatchSource, config: TrainingConfig) -> float:
    module = flat.module(row, row + 1).compute_in(PRECISIONS[config.precision])
    log_temperature = flat.log_temperature(row, row + 1)
    total = 0.0
    for start in range(0, len(run.val), config.batch_size):
        rows = run.val[start : start + config.batch_size]
        total += float(_losses(module, *feed.batch([rows]), log_temperature, config)[0]) * len(rows)
    return total / len(run.val)
