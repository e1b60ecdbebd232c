"""Worker processes on this machine: start them with orders, follow their messages, and end them with this process."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from spade.core.errors import NonFiniteLossError

PACKAGE = Path(__file__).parents[2]
#: Start of every line that is a message of a worker to this process.
MESSAGE = "spade: "
#: Key of the message that the loss became NaN or infinite.
LOSS_ERROR = "loss is not finite"
Say = Callable[[dict[str, Any]], None]


def places(device: str, n: int) -> list[str]:
    """Return a device for each of ``n`` processes: the GPU of its number, or the CPU, which they share."""
    return [f"cuda:{i}" for i in range(n)] if torch.device(device).type == "cuda" else [device] * n


def run_workers(module: str, folder: Path, orders: Sequence[dict[str, Any]], tell: Say | None) -> None:
    """Run ``python -m module ORDERS`` once per order, pass on the messages, and return when all processes have ended.

    Parameters
    ----------
    module
        Module whose main calls :func:`serve`.
    folder
        Folder of the workers' data and logs. The workers delete it if this process ends before they do.
    orders
        The work of each process with its ``"device"``, of types that JSON can hold.
    tell
        Called with every message.

    Raises
    ------
    RuntimeError
        A process ended before its work was done.
    NonFiniteLossError
        The loss became NaN or infinite.
    """
    with started(module, folder, orders) as workers:
        _follow(workers, tell)


@contextmanager
def started(module: str, folder: Path, orders: Sequence[dict[str, Any]]) -> Iterator[list[tuple[Any, str, Path]]]:
    """Start the processes, and give each with its device and log; none outlives the block."""
    path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = max(1, torch.get_num_threads() // len(orders)) if orders else 1
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    workers = []
    try:
        for i, order in enumerate(orders):
            with (folder / f"worker_{i}.log").open("w") as log:
                worker = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-m", module, json.dumps({"task": str(folder), **order})],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
                )  # fmt: skip
            workers.append((worker, order["device"], folder / f"worker_{i}.log"))
        yield workers
    finally:
        for worker, *_ in workers:
            worker.kill()
        for worker, *_ in workers:
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    pipe.close()


def _follow(workers: Sequence[tuple[Any, str, Path]], tell: Say | None) -> None:
    """Pass on the messages of the processes until all have ended."""
    lines: queue.Queue[tuple[int, str | None]] = queue.Queue()

    def listen(i: int, pipe: Any) -> None:
        for line in pipe:
            lines.put((i, line))
        lines.put((i, None))

    for i, (worker, *_) in enumerate(workers):
        threading.Thread(target=listen, args=(i, worker.stdout), daemon=True).start()
    n_running = len(workers)
    while n_running:
        i, line = lines.get()
        worker, device, log = workers[i]
        if line is not None:
            if not line.startswith(MESSAGE):  # printed by something that the interpreter loads at its start
                continue
            message = json.loads(line.removeprefix(MESSAGE))
            if LOSS_ERROR in message:
                raise NonFiniteLossError(message[LOSS_ERROR])
            if tell is not None:
                tell(message)
            continue
        n_running -= 1
        if code := worker.wait():
            tail = "\n".join(log.read_text().strip().splitlines()[-5:])
            raise RuntimeError(
                f"the process on {device} ended with code {code} before its training was finished. The state in "
                "checkpoint_dir, if one was given, is kept: repeat the call to continue from it."
                f"{tail and chr(10)}{tail}"
            )


def serve(orders: str, work: Callable[[dict[str, Any], Say], None]) -> int:
    """Carry out the orders in a process that :func:`run_workers` started, and return its exit code."""
    wanted = json.loads(orders)
    threading.Thread(target=_end_with_parent, args=(wanted["task"],), daemon=True).start()
    output = os.fdopen(os.dup(1), "w")  # for messages alone; all other output goes to the log
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        print(MESSAGE + json.dumps(message), file=output, flush=True)

    try:
        work(wanted, say)
    except NonFiniteLossError as error:
        say({LOSS_ERROR: str(error)})
    return 0


def _end_with_parent(folder: str) -> None:
    """End this process and delete the folder when standard input closes, as it does whenever the parent ends."""
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
