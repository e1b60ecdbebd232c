"""Train the experts, each on its own spots."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from spade.core.checkpoints import Checkpoints
from spade.core.config import TrainingConfig
from spade.core.feeding import DeviceFeed, Feed, HostFeed
from spade.core.flat import FlatExperts
from spade.core.heads import Experts
from spade.core.routing import Floats
from spade.core.streams import torch_stream
from spade.core.together import Progress, Run, train_together

NOT_USED, TRAIN, VAL = -1, 0, 1
#: Multiplications per layer and step from which several CPU threads pay.
THREADS_FROM = 100_000_000
#: Share of the free memory of a GPU that the data may take; with more they are sent batch by batch.
RESIDENT_SHARE = 0.6


@dataclass
class TrainedExpert:
    """One trained expert and how it got there; ``row`` is its row of :class:`~spade.core.flat.FlatExperts`."""

    row: Tensor
    train_loss: list[float]
    val_loss: list[float]
    best_epoch: int

    @property
    def temperature(self) -> float:
        """Temperature of the loss in the epoch that was kept."""
        return float(self.row[-1].exp())


@contextmanager
def _enough_threads(multiplications: int) -> Iterator[None]:
    """Use one thread where a step is small: threads that wait for each other cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if multiplications >= THREADS_FROM else 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train_experts(
    features: Floats,
    expression: csr_matrix,
    expert_of: NDArray[np.integer],
    role: NDArray[np.integer],
    n_experts: int,
    config: TrainingConfig,
    *,
    mean: Floats | None = None,
    deviation: Floats | None = None,
    init: Experts | None = None,
    seed: int = 0,
    device: str = "cpu",
    together: int | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
) -> tuple[Experts, list[TrainedExpert]]:
    """Train every expert on its own spots with AdamW and a cosine schedule per step.

    What becomes of an expert does not depend on which others are trained, in what order, or side by side with how many,
    beyond rounding.

    Parameters
    ----------
    features, expression
        Image features ``(n, D)`` float32 or float16 and log-normalised expression ``(n, G)`` CSR float32; both may be
        memory-mapped.
    expert_of
        Expert of every row.
    role
        ``TRAIN``, ``VAL`` or ``NOT_USED`` for every row. ``VAL`` rows select the epoch of their expert; without any, its last
        epoch is kept.
    n_experts
        Number of experts; one without training rows keeps its initial weights.
    config
        Loss and optimiser.
    mean, deviation
        The heads see features as ``(x - mean) / deviation``; None: as they are.
    init
        Experts to begin with, which read features as the heads see them; None: drawn at random.
    seed
        Seed of initialisation, shuffling and dropout.
    device
        Torch device.
    together
        Experts trained side by side; None: all on a GPU, which one expert cannot fill, and one on a CPU, whose cache holds
        one.
    checkpoints
        Where to keep, and from where to take, the state of unfinished and finished experts.
    progress
        Called after every epoch of an expert.

    Returns
    -------
    The experts stacked into one module on the CPU, and the record of each.
    """
    device = str(device)
    d_image, d_spot = features.shape[1], expression.shape[1]
    final = FlatExperts(n_experts, d_image, d_spot, config.dim)
    if init is None:
        final.module(0, n_experts).initialise([torch_stream(seed, "initialisation", e) for e in range(n_experts)])
    else:
        final.module(0, n_experts).load_state_dict(init.state_dict())
    final.values[:, -1] = math.log(config.temperature)
    trained = [TrainedExpert(final.values[e], [], [], -1) for e in range(n_experts)]
    runs = []
    for e in range(n_experts):
        train, val = (np.flatnonzero((expert_of == e) & (role == kind)) for kind in (TRAIN, VAL))
        if len(train):
            runs.append(Run.new(e, train, val, seed, device))
    feed = _feed(features, expression, mean, deviation, device) if runs else None
    together = together or (1 if torch.device(device).type == "cpu" else max(len(runs), 1))
    runs.sort(key=lambda run: -len(run.train))
    with _enough_threads(config.batch_size * (d_image + d_spot) * config.dim):
        for start in range(0, len(runs), together):
            group = _resume(runs[start : start + together], checkpoints, config)
            flat = FlatExperts(len(group), d_image, d_spot, config.dim, device)
            for row, (run, state) in enumerate(group):
                for name in ("values", "first", "second"):
                    rows: Tensor = getattr(flat, name)
                    rows[row] = final.values[run.expert] if name == "values" else 0.0
                    if state:
                        rows[row] = state[name].to(rows.device)
            if group and feed is not None:
                keep = None
                if checkpoints is not None:
                    keep = checkpoints.keeper(flat)
                train_together([run for run, _ in group], flat, feed, config, progress=progress, keep=keep)
    for run in runs:
        best = run.best
        if best is None:
            raise RuntimeError(f"expert {run.expert} ended without a kept epoch.")
        final.values[run.expert] = best.cpu()
        trained[run.expert] = TrainedExpert(final.values[run.expert], run.train_loss, run.val_loss, run.best_epoch)
    module = Experts(n_experts, d_image, d_spot, config.dim)
    module.load_state_dict(final.module(0, n_experts).state_dict())
    return module.eval(), trained


def _resume(
    runs: Sequence[Run], checkpoints: Checkpoints | None, config: TrainingConfig
) -> list[tuple[Run, dict[str, Tensor]]]:
    """Return the runs that have steps to come, most first, with the state they go on from (empty: from the start)."""
    open_runs = []
    for run in runs:
        state = {} if checkpoints is None else checkpoints.restore(run)
        to_come = config.n_epochs * run.steps_per_epoch(config.batch_size) - run.step
        if to_come:
            open_runs.append((to_come, run, state))
    open_runs.sort(key=lambda one: -one[0])
    return [(run, state) for _, run, state in open_runs]


def _feed(features: Floats, expression: csr_matrix, mean: Floats | None, deviation: Floats | None, device: str) -> Feed:
    """Keep the data on a GPU if they fit, else send batches."""
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if DeviceFeed.size(features, expression) < RESIDENT_SHARE * free:
            return DeviceFeed(features, expression, mean, deviation, device)
    return HostFeed(features, expression, mean, deviation, device)


@torch.no_grad()
def fold_scaling(experts: Experts, mean: Floats, deviation: Floats) -> None:
    """Turn image heads trained on ``(x − mean)/deviation`` into the same functions of ``x``, in place.

    W1 ← W1/deviation and b1 ← b1 − W1·mean/deviation, computed in float64.
    """
    layer = experts.image_projection.projection
    weight = layer.weight.double() / torch.from_numpy(np.asarray(deviation, dtype=np.float64))
    layer.bias.copy_(layer.bias.double() - weight @ torch.from_numpy(np.asarray(mean, dtype=np.float64)))
    layer.weight.copy_(weight)


@torch.no_grad()
def unfold_scaling(experts: Experts, mean: Floats, deviation: Floats) -> None:
    """Turn image heads of ``x`` into the same functions of ``(x − mean)/deviation``, in place: undo :func:`fold_scaling`."""
    layer = experts.image_projection.projection
    weight = layer.weight.double()
    layer.bias.copy_(layer.bias.double() + weight @ torch.from_numpy(np.asarray(mean, dtype=np.float64)))
    layer.weight.copy_(weight * torch.from_numpy(np.asarray(deviation, dtype=np.float64)))
