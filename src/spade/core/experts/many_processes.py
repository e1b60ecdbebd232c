"""Train experts in several processes of this machine, one per GPU; whole experts are dealt to them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from spade.core.distributed.dealing import deal
from spade.core.distributed.workers import places, run_workers
from spade.core.experts import worker
from spade.core.experts.checkpoints import Checkpoints
from spade.core.experts.job import TrainingJob
from spade.core.experts.loop import Progress
from spade.core.experts.one_process import TrainedExpert


def train_experts_in_processes(
    job: TrainingJob, device: str, n: int, *, checkpoints: Checkpoints | None = None, progress: Progress | None = None
) -> dict[int, TrainedExpert]:
    """Train all experts in ``n`` processes and return their records.

    The processes map the data from files in the machine's temporary folder, so that memory holds them once. They leave
    their experts among the checkpoints, and end with this process, however it ends.

    Parameters
    ----------
    job
        Data, settings and initial weights.
    device
        ``"cuda"``: each process has the GPU of its number; ``"cpu"``: each has its share of the threads.
    n
        Number of processes.
    checkpoints, progress
        As in :func:`~spade.core.experts.train.train_experts`.

    Raises
    ------
    RuntimeError
        A process ended before its experts did.
    NonFiniteLossError
        The loss became NaN or infinite.
    """
    with TemporaryDirectory(prefix="spade-") as name:
        folder = Path(name)
        job.save(folder)
        state = checkpoints or Checkpoints(folder / "state", None)
        hands = [hand for hand in deal(job.loads(), n) if hand]
        orders = [
            {"state": str(state.folder), "device": place, "experts": hand}
            for place, hand in zip(places(device, len(hands)), hands, strict=True)
        ]
        tell = None if progress is None else lambda message: progress(*message["epoch"])
        run_workers(worker.__name__, folder, orders, tell)
        return {e: TrainedExpert(*state.result(e)) for e in np.flatnonzero(job.loads()).tolist()}
