"""Train some experts of a task in this process: side by side on a GPU, one per thread on a CPU."""

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
#: Share of the free memory of a GPU that the data may take; with more they are sent batch by batch.
RESIDENT_SHARE = 0.6


@dataclass
class TrainedExpert:
    """One trained expert and how it got there; ``row`` is its row of :class:`~spade.core.experts.parameters.ExpertParameters`."""

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


def train_here(
    task: TrainingJob,
    experts: Sequence[int],
    device: str,
    *,
    n_side_by_side: int | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
) -> dict[int, TrainedExpert]:
    """Train some experts and return their records; those without rows to train on are left out.

    A CPU is kept busiest by one thread per expert: nothing waits for another, and what one thread does alone (gathering a
    batch, drawing dropout) overlaps with the products of others. Where steps are small there is one thread, as Python is
    what takes the time. Threads left over go to each expert.

    Parameters
    ----------
    task
        Data, settings and start.
    experts
        Which to train.
    device, together, checkpoints, progress
        As in :func:`~spade.core.experts.train.train_experts`.
    """
    runs = [run for run in (task.run(e, device) for e in experts) if run.size]
    d_image, d_spot, dim = task.widths
    threads = torch.get_num_threads() if task.config.batch_size * (d_image + d_spot) * dim >= THREADS_FROM else 1
    on_cpu = torch.device(device).type == "cpu"
    workers = max(1, min(threads, len(runs))) if on_cpu and n_side_by_side is None else 1
    n_side_by_side = n_side_by_side or (1 if on_cpu else max(len(runs), 1))
    runs.sort(key=lambda run: -run.size)
    groups = [runs[start : start + n_side_by_side] for start in range(0, len(runs), n_side_by_side)]
    if workers == 1:
        feed = _feed(task, device) if runs else None
        with use_threads(threads):
            for group in groups:
                _train_group(task, group, device, feed, checkpoints, progress)
    else:
        _in_threads(task, groups, workers, threads // workers, checkpoints, progress)
    trained = {}
    for run in runs:
        if run.best is None:
            raise RuntimeError(f"expert {run.expert} ended without a kept epoch.")
        trained[run.expert] = TrainedExpert(run.best.cpu(), run.train_loss, run.val_loss, run.best_epoch)
    return trained


def _in_threads(
    task: TrainingJob,
    groups: Sequence[Sequence[Run]],
    workers: int,
    threads: int,
    checkpoints: Checkpoints | None,
    progress: Progress | None,
) -> None:
    """Train groups in threads of their own; if one fails, or on Ctrl-C, all stop after their step."""
    own, lock, stop = threading.local(), threading.Lock(), threading.Event()

    def tell(expert: int, epoch: int, train_loss: float, val_loss: float) -> None:
        if progress is not None:
            with lock:
                progress(expert, epoch, train_loss, val_loss)

    def check() -> None:
        if stop.is_set():
            raise _StoppedError

    def work(group: Sequence[Run]) -> None:
        if not hasattr(own, "feed"):
            torch.set_num_threads(threads)
            own.feed = _feed(task, "cpu")
        check()
        _train_group(task, group, "cpu", own.feed, checkpoints, tell, check)

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
    task: TrainingJob,
    runs: Sequence[Run],
    device: str,
    feed: BatchSource | None,
    checkpoints: Checkpoints | None,
    progress: Progress | None,
    check: Callable[[], None] | None = None,
) -> None:
    """Train experts side by side, from where they were left; ``check`` is called after every step of an expert."""
    states = {run.expert: {} if checkpoints is None else checkpoints.restore(run) for run in runs}
    to_come = {
        run.expert: task.config.n_epochs * run.steps_per_epoch(task.config.batch_size) - run.step for run in runs
    }
    left = sorted((run for run in runs if to_come[run.expert]), key=lambda run: -to_come[run.expert])
    if not left or feed is None:
        return
    flat = ExpertParameters(len(left), *task.widths, device, training=True)
    for row, run in enumerate(left):
        state = states[run.expert] or {"values": task.start(run.expert)}
        for name, value in state.items():
            rows: Tensor = getattr(flat, name)
            rows[row] = value.to(rows.device)
    save = None if checkpoints is None else checkpoints.keeper(flat)

    def keep(run: Run, row: int, *, finished: bool) -> None:
        if save is not None:
            save(run, row, finished=finished)
        if check is not None:
            check()

    train_side_by_side(left, flat, feed, task.config, progress=progress, keep=keep)


def _feed(task: TrainingJob, device: str) -> BatchSource:
    """Keep the data on a GPU if they fit, else send batches."""
    data = task.features, task.expression, task.mean, task.deviation, device, PRECISIONS[task.config.precision]
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if DeviceBatches.size(task.features, task.expression) < RESIDENT_SHARE * free:
            return DeviceBatches(*data)
    return HostBatches(*data)
