"""Deal whole experts to processes of this machine, one per GPU: no communication until each has ended."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from spade.core.checkpoints import Checkpoints
from spade.core.local import TrainedExpert
from spade.core.task import Task
from spade.core.together import Progress
from spade.core.workers import places, run_workers

WORKER = "spade.core.worker"


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
        orders = [
            {"state": str(state.folder), "device": place, "experts": hand}
            for place, hand in zip(places(device, len(hands)), hands, strict=True)
        ]
        run_workers(WORKER, folder, orders, None if progress is None else lambda message: progress(*message["epoch"]))
        return {e: TrainedExpert(*state.result(e)) for e in np.flatnonzero(task.loads()).tolist()}
