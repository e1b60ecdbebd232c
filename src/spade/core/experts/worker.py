"""A process that trains experts: ``python -m spade.core.experts.worker ORDERS``, as ``many_processes`` starts it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from spade.core.distributed.workers import Say, serve
from spade.core.experts.checkpoints import Checkpoints
from spade.core.experts.job import TrainingJob
from spade.core.experts.one_process import train_here


def work(orders: dict[str, Any], say: Say) -> None:
    """Train the experts that the orders name; leave them among the checkpoints."""
    train_here(
        TrainingJob.load(Path(orders["task"])),
        orders["experts"],
        orders["device"],
        checkpoints=Checkpoints(Path(orders["state"]), None),
        progress=lambda *facts: say({"epoch": facts}),
    )


if __name__ == "__main__":
    raise SystemExit(serve(sys.argv[1], work))
