"""The process that :func:`spade.core.processes.train_in_processes` starts: ``python -m spade.core.worker ORDERS``."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from spade.core.checkpoints import Checkpoints
from spade.core.config import NonFiniteLossError
from spade.core.local import train_locally
from spade.core.task import Task


def _end_with_parent() -> None:
    """End when the other end of standard input closes, as it does however the parent ends."""
    while os.read(0, 1):
        pass
    os._exit(1)


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main(orders: str) -> int:
    """Train the experts that the orders name and leave them among the checkpoints."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    wanted = json.loads(orders)
    try:
        train_locally(
            Task.load(Path(wanted["task"])),
            wanted["experts"],
            wanted["device"],
            checkpoints=Checkpoints(Path(wanted["state"]), None),
            progress=lambda *facts: _say({"epoch": facts}),
        )
    except NonFiniteLossError as error:
        _say({"loss is not finite": str(error)})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
