"""Train the experts, each on its own spots."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from spade.core.heads import Experts
from spade.core.losses import LOSSES
from spade.core.routing import Floats
from spade.core.streams import torch_stream

NOT_USED, TRAIN, VAL = -1, 0, 1
#: What settings with a default of this kind accept, what they become, and what that is called.
KINDS: dict[type, tuple[Any, Callable[[Any], Any], str]] = {
    bool: ((bool, np.bool_), bool, "True or False"),
    int: (Integral, int, "a whole number"),
    float: (Real, float, "a number"),
}
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
#: Multiplications per layer and step from which several CPU threads pay.
THREADS_FROM = 100_000_000
#: (expert, epoch, training loss, validation loss or NaN)
Progress = Callable[[int, int, float, float], None]


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that shapes the training of one expert."""

    loss: str = "soft_clip"
    temperature: float = 1.0
    learn_temperature: bool = False
    n_epochs: int = 100
    batch_size: int = 128
    lr: float = 1e-4
    weight_decay: float = 1e-2
    dim: int = 256
    dropout: float = 0.1
    precision: str = "fp32"

    def __post_init__(self) -> None:
        """Check every value; numbers of numpy become plain ones."""
        for one in fields(self):
            kind, value = type(one.default), getattr(self, one.name)
            if kind in KINDS:
                base, plain, what = KINDS[kind]
                if not isinstance(value, base) or (kind is not bool and isinstance(value, (bool, np.bool_))):
                    raise ValueError(f"{one.name}={value!r}: expected {what}.")
                if type(value) not in KINDS:
                    object.__setattr__(self, one.name, plain(value))
        if self.loss not in LOSSES:
            raise ValueError(f"loss={self.loss!r}: expected one of {', '.join(map(repr, LOSSES))}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r}: expected one of {', '.join(map(repr, PRECISIONS))}.")
        if self.learn_temperature and self.loss != "clip":
            raise ValueError('learn_temperature=True needs loss="clip"; soft_clip has a fixed temperature.')
        for name in ("n_epochs", "batch_size", "dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a whole number of at least 1.")
        for name in ("temperature", "lr"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a positive number.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout!r}: expected a number in [0, 1).")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay={self.weight_decay!r}: expected a number of at least 0.")


@dataclass
class TrainedExpert:
    """One trained expert and how it got there."""

    state: dict[str, Tensor]
    train_loss: list[float]
    val_loss: list[float]
    best_epoch: int
    temperature: float


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite."""


def cosine(step: int, n_steps: int) -> float:
    """Factor of the learning rate at ``step``: from 1 at the first step towards 0 after the last."""
    return 0.5 * (1 + math.cos(math.pi * step / n_steps))


@contextmanager
def _enough_threads(multiplications: int) -> Iterator[None]:
    """Use one thread where a step is small: threads that wait for each other cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if multiplications >= THREADS_FROM else 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _dense(rows: csr_matrix, device: torch.device) -> Tensor:
    return torch.from_numpy(rows.toarray()).to(device, torch.float32)


def train_expert(
    features: Floats,
    expression: csr_matrix,
    train: NDArray[np.integer],
    val: NDArray[np.integer],
    config: TrainingConfig,
    *,
    expert: int = 0,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TrainedExpert:
    """Train one expert with AdamW and a cosine schedule per step.

    Parameters
    ----------
    features
        Image features ``(n, D)``, float32, as the heads see them.
    expression
        Log-normalised expression ``(n, G)``, CSR float32.
    train, val
        Rows to train on, and rows whose loss selects the epoch; without ``val`` the last epoch is kept.
    config
        Loss and optimiser.
    expert
        Number of the expert: selects its random streams.
    seed
        Seed of initialisation, shuffling and dropout.
    device
        Torch device.
    progress
        Called after every epoch.

    Returns
    -------
    TrainedExpert
        State (on the CPU) with a leading expert dimension of 1; losses are means over spots.
    """
    where = torch.device(device)
    model = Experts(1, features.shape[1], expression.shape[1], config.dim)
    model.initialise([torch_stream(seed, "initialisation", expert)])
    model.to(where)
    parameters = list(model.parameters())
    log_temperature = torch.tensor(math.log(config.temperature), device=where, requires_grad=config.learn_temperature)
    groups = [{"params": parameters, "weight_decay": config.weight_decay}]
    if config.learn_temperature:
        groups.append({"params": [log_temperature], "weight_decay": 0.0})
    optimiser = torch.optim.AdamW(groups, lr=config.lr, fused=True)
    shuffling, dropout = (torch_stream(seed, purpose, expert) for purpose in ("shuffling", "dropout"))
    autocast = PRECISIONS[config.precision]

    def batch_loss(rows: NDArray[np.integer], training: bool) -> Tensor:
        image = torch.from_numpy(features[rows]).to(where).unsqueeze(0)
        spot = _dense(expression[rows], where).unsqueeze(0)
        masks: list[Tensor | None] = [None, None]
        if training and config.dropout > 0:
            keep = torch.rand((2, 1, len(rows), config.dim), generator=dropout) >= config.dropout
            masks = list((keep.float() / (1 - config.dropout)).to(where))
        with torch.autocast(where.type, dtype=autocast) if autocast else nullcontext():
            joint = model.image_projection(image, masks[0]), model.spot_projection(spot, masks[1])
        return LOSSES[config.loss](joint[0].float(), joint[1].float(), log_temperature.exp())[0]

    def validation_loss() -> float:
        with torch.no_grad():
            losses = [float(batch_loss(rows, False)) * len(rows) for rows in _batches(val, config.batch_size)]
        return sum(losses) / len(val)

    n_steps = config.n_epochs * math.ceil(len(train) / config.batch_size)
    step = 0
    result = TrainedExpert({}, [], [], -1, config.temperature)
    for epoch in range(config.n_epochs if len(train) else 0):
        total = 0.0
        for rows in _batches(train[torch.randperm(len(train), generator=shuffling).numpy()], config.batch_size):
            for group in optimiser.param_groups:
                group["lr"] = config.lr * cosine(step, n_steps)
            loss = batch_loss(rows, True)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(rows)
            step += 1
        result.train_loss.append(total / len(train))
        if not math.isfinite(total):
            raise NonFiniteLossError(
                f"expert {expert}: the loss is {total} in epoch {epoch}. Lower lr={config.lr:g}, or check the scale "
                f"of the features (largest magnitude {float(np.abs(features[train]).max()):.3g})."
            )
        result.val_loss.append(validation_loss() if len(val) else math.nan)
        if not len(val) or result.val_loss[-1] <= np.nanmin(result.val_loss):
            result.best_epoch = epoch
            result.temperature = float(log_temperature.detach().exp())
            if len(val) or epoch == config.n_epochs - 1:
                result.state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
        if progress is not None:
            progress(expert, epoch, result.train_loss[-1], result.val_loss[-1])
    if not result.state:
        result.state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    return result


def _batches(rows: NDArray[np.integer], size: int) -> Sequence[NDArray[np.integer]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def train_experts(
    features: Floats,
    expression: csr_matrix,
    expert_of: NDArray[np.integer],
    role: NDArray[np.integer],
    n_experts: int,
    config: TrainingConfig,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> tuple[Experts, list[TrainedExpert]]:
    """Train every expert on its own spots, one after another.

    Parameters
    ----------
    features, expression
        Image features ``(n, D)`` float32 and log-normalised expression ``(n, G)`` CSR.
    expert_of
        Expert of every row.
    role
        ``TRAIN``, ``VAL`` or ``NOT_USED`` for every row.
    n_experts
        Number of experts; one without training rows keeps its initial weights.
    config, seed, device, progress
        As in :func:`train_expert`.

    Returns
    -------
    The experts stacked into one module on the CPU, and the record of each.
    """
    trained = []
    with _enough_threads(config.batch_size * (features.shape[1] + expression.shape[1]) * config.dim):
        for e in range(n_experts):
            train, val = (np.flatnonzero((expert_of == e) & (role == kind)) for kind in (TRAIN, VAL))
            trained.append(
                train_expert(
                    features, expression, train, val, config, expert=e, seed=seed, device=device, progress=progress
                )
            )
    stacked = Experts(n_experts, features.shape[1], expression.shape[1], config.dim)
    stacked.load_state_dict({key: torch.cat([one.state[key] for one in trained]) for key in trained[0].state})
    return stacked.eval(), trained


@torch.no_grad()
def fold_scaling(experts: Experts, mean: Floats, deviation: Floats) -> None:
    """Turn image heads trained on ``(x − mean)/deviation`` into the same functions of ``x``, in place.

    W1 ← W1/deviation and b1 ← b1 − W1·mean/deviation, computed in float64.
    """
    layer = experts.image_projection.projection
    weight = layer.weight.double() / torch.from_numpy(np.asarray(deviation, dtype=np.float64))
    layer.bias.copy_(layer.bias.double() - weight @ torch.from_numpy(np.asarray(mean, dtype=np.float64)))
    layer.weight.copy_(weight)
