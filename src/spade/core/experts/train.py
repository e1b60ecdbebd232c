"""Train the experts, each on its own spots."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade.core.arrays import Floats
from spade.core.distributed.dealing import deal
from spade.core.distributed.ranks import ALONE, Ranks
from spade.core.experts.checkpoints import Checkpoints
from spade.core.experts.config import TrainingConfig
from spade.core.experts.heads import Experts
from spade.core.experts.job import TrainingJob, rows_of
from spade.core.experts.loop import Progress
from spade.core.experts.many_processes import train_experts_in_processes
from spade.core.experts.one_process import TrainedExpert, train_here


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
    devices: int = 1,
    ranks: Ranks = ALONE,
    n_side_by_side: int | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
) -> tuple[Experts, list[TrainedExpert]]:
    """Train every expert on its own spots with AdamW and a cosine schedule per step.

    The result of an expert does not depend, beyond rounding, on which others are trained, in what order or where, or on
    how many are trained side by side.

    Parameters
    ----------
    features, expression
        Image features ``(n, D)`` float32 or float16 and log-normalised expression ``(n, G)`` CSR float32; both may be
        memory-mapped.
    expert_of
        Expert of every row.
    role
        ``TRAIN``, ``VAL`` or ``NOT_USED`` for every row. ``VAL`` rows select the epoch of their expert; without any,
        its last epoch is kept.
    n_experts
        Number of experts; one without training rows keeps its initial weights.
    config
        Loss and optimiser.
    mean, deviation
        The heads read features as ``(x - mean) / deviation``; None: as they are.
    init
        Experts to begin with, which read features as the heads do; None: drawn at random.
    seed
        Seed of initialisation, shuffling and dropout.
    device
        Torch device.
    devices
        Processes that whole experts are dealt to, each with a GPU of its own, or a share of the threads of a CPU.
    ranks
        Processes that ``torchrun`` started. Every one calls this function with the same data, trains its experts and
        returns all of them.
    n_side_by_side
        Experts trained side by side. None: all on a GPU, which one expert cannot fill; on a CPU one per thread.
    checkpoints
        Keeps the state of unfinished and finished experts; training goes on from there.
    progress
        Called after every epoch of an expert that this process, or one that it started, trains.

    Returns
    -------
    The experts stacked into one module on the CPU, and the record of each.
    """
    start = None if init is None else rows_of(init)
    job = TrainingJob(features, expression, expert_of, role, n_experts, config, mean, deviation, start, seed)
    if devices > 1:
        results = train_experts_in_processes(job, device, devices, checkpoints=checkpoints, progress=progress)
    else:
        own_experts = deal(job.loads(), ranks.world)[ranks.rank]
        own_results = train_here(
            job, own_experts, device, n_side_by_side=n_side_by_side, checkpoints=checkpoints, progress=progress
        )
        results = {e: result for part in ranks.gather(own_results) for e, result in part.items()}
    loads = job.loads()
    trained = [results[e] if loads[e] else TrainedExpert(job.start(e), [], [], -1) for e in range(n_experts)]
    return job.module([one.row for one in trained]), trained


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
    """Turn image heads of ``x`` into the same functions of ``(x − mean)/deviation``, in place."""
    layer = experts.image_projection.projection
    weight = layer.weight.double()
    layer.bias.copy_(layer.bias.double() + weight @ torch.from_numpy(np.asarray(mean, dtype=np.float64)))
    layer.weight.copy_(weight * torch.from_numpy(np.asarray(deviation, dtype=np.float64)))
