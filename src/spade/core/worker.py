"""The process that :func:`spade.core.processes.train_in_processes` starts: ``python -m spade.core.worker ORDERS``."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

from spade.core.checkpoints import Checkpoints
from spade.core.config import NonFiniteLossError
from spade.core.local import train_locally
from spade.core.processes import MESSAGE
from spade.core.task import Task


def _end_with_parent(folder: str) -> None:
    """End when the other end of standard input closes, as it does however the parent ends, and clear away what it left."""
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _messages() -> TextIO:
    """Keep standard output for messages alone; what else is printed goes to the log."""
    kept = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return kept


def main(orders: str) -> int:
    """Train the experts that the orders name and leave them among the checkpoints."""
    wanted = json.loads(orders)
    threading.Thread(target=_end_with_parent, args=(wanted["task"],), daemon=True).start()
    output = _messages()

    def say(message: dict[str, Any]) -> None:
        print(MESSAGE + json.dumps(message), file=output, flush=True)

    try:
        train_locally(
            Task.load(Path(wanted["task"])),
            wanted["experts"],
            wanted["device"],
            checkpoints=Checkpoints(Path(wanted["state"]), None),
            progress=lambda *facts: say({"epoch": facts}),
        )
    except NonFiniteLossError as error:
        say({"loss is not finite": str(error)})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
