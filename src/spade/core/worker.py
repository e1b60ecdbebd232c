"""The process that :func:`spade.core.processes.train_in_processes` starts: ``python -m spade.core.worker ORDERS``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from spade.core.checkpoints import Checkpoints
from spade.core.local import train_locally
from spade.core.task import Task
from spade.core.workers import Say, serve


def work(wanted: dict[str, Any], say: Say) -> None:
    """Train the experts that the orders name and leave them among the checkpoints."""
    train_locally(
        Task.load(Path(wanted["task"])),
        wanted["experts"],
        wanted["device"],
        checkpoints=Checkpoints(Path(wanted["state"]), None),
        progress=lambda *facts: say({"epoch": facts}),
    )


if __name__ == "__main__":
    raise SystemExit(serve(sys.argv[1], work))
