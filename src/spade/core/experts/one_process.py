"""Train experts in this process: side by side on a GPU, one per thread on a CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch
from torch import Tensor

from spade.core.device import PRECISIONS
from spade.core.distributed.threads import threads as use_threads
from spade.core.experts.batches import BatchSource, DeviceBatches, HostBatches
from spade.core.experts.checkpoints import Checkpoints
from spade.core.experts.job import TrainingJob
from spade.core.experts.loop import Progress, Run, train_side_by_side
from spade.core.experts.parameters import ExpertParameters

#: Multiplications per layer and step from which several CPU threads pay.
THREADS_FROM = 100_000_000
#: Share of a GPU's free memory that the data may take; more data is sent batch by batch.
RESIDENT_SHARE = 0.6


@dataclass
class TrainedExpert:
    """One trained expert and its losses; ``row`` is its row of ``ExpertParameters``."""

    row: Tensor
    train_loss: list[float]
    val_loss: list[float]
    best_epoch: int

    @property
    def temperature(self) -> float:
        """Temperature of the loss in the epoch that was kept."""
        return float(self.row[-1].exp())


class _StoppedError(Exception):
    """Another thread of this training failed or was interrupted."""


@dataclass(frozen=True)
class _Training:
    """What the groups of experts of one call share."""

    job: TrainingJob
    device: str
    checkpoints: Checkpoints | None
    progress: Progress | None


def train_here(
    job: TrainingJob,
    experts: Sequence[int],
    device: str,
    *,
    n_side_by_side: int | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
) -> dict[int, TrainedExpert]:
    """Train some experts and return their records; experts without rows to train on are left out.

    A CPU is kept busiest by one thread per expert: no thread waits for another, and what a thread does alone (gathering
    a batch, drawing dropout) overlaps with the products of others. Small steps get one thread, because Python then
    takes most of the time. Threads that are left over go to each expert.

    Parameters
    ----------
    job
        Data, settings and initial weights.
    experts
        Which to train.
    device, n_side_by_side, checkpoints, progress
        As in :func:`~spade.core.experts.train.train_experts`.
    """
    runs = [run for run in (job.run(e, device) for e in experts) if run.size]
    d_image, d_spot, dim = job.widths
    threads = torch.get_num_threads() if job.config.batch_size * (d_image + d_spot) * dim >= THREADS_FROM else 1
    on_cpu = torch.device(device).type == "cpu"
    workers = max(1, min(threads, len(runs))) if on_cpu and n_side_by_side is None else 1
    size = n_side_by_side or (1 if on_cpu else max(len(runs), 1))
    runs.sort(key=lambda run: -run.size)
    groups = [runs[start : start + size] for start in range(0, len(runs), size)]
    training = _Training(job, device, checkpoints, progress)
    if workers == 1:
        batches = _batches(job, device) if runs else None
        with use_threads(threads):
            for group in groups:
                _train_group(training, group, batches)
    else:
        _train_in_threads(training, groups, workers, threads // workers)
    trained = {}
    for run in runs:
        if run.best is None:
            raise RuntimeError(f"expert {run.expert} ended without a kept epoch.")
        trained[run.expert] = TrainedExpert(run.best.cpu(), run.train_loss, run.val_loss, run.best_epoch)
    return trained


def _train_in_threads(training: _Training, groups: Sequence[Sequence[Run]], workers: int, threads: int) -> None:
    """Train groups in threads of their own; if one fails, or on Ctrl-C, all stop after their step."""
    local, lock, stop = threading.local(), threading.Lock(), threading.Event()

    def tell(expert: int, epoch: int, train_loss: float, val_loss: float) -> None:
        if training.progress is not None:
            with lock:
                training.progress(expert, epoch, train_loss, val_loss)

    def check() -> None:
        if stop.is_set():
            raise _StoppedError

    in_thread = _Training(training.job, "cpu", training.checkpoints, tell)

    def work(group: Sequence[Run]) -> None:
        if not hasattr(local, "batches"):
            torch.set_num_threads(threads)
            local.batches = _batches(training.job, "cpu")
        check()
        _train_group(in_thread, group, local.batches, check)

    with use_threads(torch.get_num_threads()), ThreadPoolExecutor(workers) as pool:
        futures: list[Future[None]] = []
        try:
            futures += [pool.submit(work, group) for group in groups]
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()  # of those that go on after a failure or Ctrl-C
        errors = [error for error in (future.exception() for future in futures) if error is not None]
    for error in errors:
        if not isinstance(error, _StoppedError):
            raise error


def _train_group(
    training: _Training,
    runs: Sequence[Run],
    batches: BatchSource | None,
    check: Callable[[], None] | None = None,
) -> None:
    """Train experts side by side, from where they were left; ``check`` is called after every step of an expert."""
    job, checkpoints = training.job, training.checkpoints
    states = {run.expert: {} if checkpoints is None else checkpoints.restore(run) for run in runs}
    steps_left = {
        run.expert: job.config.n_epochs * run.steps_per_epoch(job.config.batch_size) - run.step for run in runs
    }
    unfinished = sorted((run for run in runs if steps_left[run.expert]), key=lambda run: -steps_left[run.expert])
    if not unfinished or batches is None:
        return
    parameters = ExpertParameters(len(unfinished), *job.widths, training.device, training=True)
    for row, run in enumerate(unfinished):
        state = states[run.expert] or {"values": job.start(run.expert)}
        for name, value in state.items():
            rows: Tensor = getattr(parameters, name)
            rows[row] = value.to(rows.device)
    save = None if checkpoints is None else checkpoints.keeper(parameters)

    def keep(run: Run, row: int, *, finished: bool) -> None:
        if save is not None:
            save(run, row, finished=finished)
        if check is not None:
            check()

    train_side_by_side(unfinished, parameters, batches, job.config, progress=training.progress, keep=keep)


def _batches(job: TrainingJob, device: str) -> BatchSource:
    """Keep the data on a GPU if they fit, else send batches."""
    data = job.features, job.expression, job.mean, job.deviation, device, PRECISIONS[job.config.precision]
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if DeviceBatches.size(job.features, job.expression) < RESIDENT_SHARE * free:
            return DeviceBatches(*data)
    return HostBatches(*data)
