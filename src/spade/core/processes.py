"""Deal whole experts to processes of this machine, one per GPU: no communication until each has ended."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spade.core.checkpoints import Checkpoints
from spade.core.config import NonFiniteLossError
from spade.core.local import TrainedExpert
from spade.core.task import Task
from spade.core.together import Progress

PACKAGE = Path(__file__).parents[1]
#: What a line begins with that a process says to the one that started it.
MESSAGE = "spade: "


def deal(loads: NDArray[np.integer], n: int) -> list[list[int]]:
    """Deal experts to ``n`` hands: the largest first, each to the hand with the least so far.

    >>> import numpy as np
    >>> deal(np.array([5, 0, 9, 4, 1]), 2)
    [[2, 4], [0, 3, 1]]
    """
    hands: list[list[int]] = [[] for _ in range(n)]
    held = [0] * n
    for expert in np.argsort(-loads, kind="stable").tolist():
        least = held.index(min(held))
        hands[least].append(expert)
        held[least] += int(loads[expert])
    return hands


def train_in_processes(
    task: Task, device: str, n: int, *, checkpoints: Checkpoints | None = None, progress: Progress | None = None
) -> dict[int, TrainedExpert]:
    """Train all experts in ``n`` processes and return their records.

    The processes read the data from files in the temporary folder of the machine, which they share in memory, and leave their experts
    among the checkpoints. They end with this one, however it ends.

    Parameters
    ----------
    task
        Data, settings and start.
    device
        ``"cuda"``: each process has the GPU of its number; ``"cpu"``: each has its share of the threads.
    n
        Number of processes.
    checkpoints, progress
        As in :func:`~spade.core.training.train_experts`.

    Raises
    ------
    RuntimeError
        A process ended before its experts did.
    NonFiniteLossError
        The loss became NaN or infinite.
    """
    with TemporaryDirectory(prefix="spade-") as name:
        folder = Path(name)
        task.save(folder)
        state = checkpoints or Checkpoints(folder / "state", None)
        hands = [hand for hand in deal(task.loads(), n) if hand]
        if torch.device(device).type == "cuda":
            places = [f"cuda:{i}" for i in range(len(hands))]
        else:
            places = [device] * len(hands)
        threads = max(1, torch.get_num_threads() // len(hands))
        with _started(folder, state.folder, places, hands, threads) as workers:
            _follow(workers, progress)
        return {e: TrainedExpert(*state.result(e)) for e in np.flatnonzero(task.loads()).tolist()}


@contextmanager
def _started(folder: Path, state: Path, places: Sequence[str], hands: Sequence[Sequence[int]], threads: int) -> Any:
    """Start a process per hand; none outlives the block."""
    path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    workers = []
    try:
        for i, (place, hand) in enumerate(zip(places, hands, strict=True)):
            orders = json.dumps({"task": str(folder), "state": str(state), "device": place, "experts": hand})
            with (folder / f"worker_{i}.log").open("w") as log:
                worker = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-m", "spade.core.worker", orders],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
                )  # fmt: skip
            workers.append((worker, place, folder / f"worker_{i}.log"))
        yield workers
    finally:
        for worker, *_ in workers:
            worker.kill()
        for worker, *_ in workers:
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    pipe.close()


def _follow(workers: Sequence[tuple[Any, str, Path]], progress: Progress | None) -> None:
    """Pass on what the processes say until all have ended."""
    said: queue.Queue[tuple[int, str | None]] = queue.Queue()

    def listen(i: int, pipe: Any) -> None:
        for line in pipe:
            said.put((i, line))
        said.put((i, None))

    for i, (worker, *_) in enumerate(workers):
        threading.Thread(target=listen, args=(i, worker.stdout), daemon=True).start()
    going = len(workers)
    while going:
        i, line = said.get()
        worker, place, log = workers[i]
        if line is not None:
            if not line.startswith(MESSAGE):  # something else that the interpreter ran at its start
                continue
            message = json.loads(line.removeprefix(MESSAGE))
            if "loss is not finite" in message:
                raise NonFiniteLossError(message["loss is not finite"])
            if progress is not None:
                expert, epoch, train_loss, val_loss = message["epoch"]
                progress(expert, epoch, train_loss, val_loss)
            continue
        going -= 1
        if code := worker.wait():
            tail = "\n".join(log.read_text().strip().splitlines()[-5:])
            raise RuntimeError(
                f"the process on {place} ended with code {code} before its experts were trained. What checkpoint_dir holds, if it was "
                f"given, is kept: the same call goes on from there.{tail and chr(10)}{tail}"
            )
