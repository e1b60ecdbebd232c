"""Processes of this machine that work for this one: started with orders, listened to, and ended with it, however it ends."""

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
#: What a line begins with that a process says to the one that started it.
MESSAGE = "spade: "
#: What it says when the loss became NaN or infinite.
NOT_FINITE = "loss is not finite"
Say = Callable[[dict[str, Any]], None]


def places(device: str, n: int) -> list[str]:
    """Return a device for each of ``n`` processes: the GPU of its number, or a share of the CPU."""
    return [f"cuda:{i}" for i in range(n)] if torch.device(device).type == "cuda" else [device] * n


def run_workers(module: str, folder: Path, orders: Sequence[dict[str, Any]], tell: Say | None) -> None:
    """Run ``python -m module ORDERS`` once per order until all have ended, and pass on what they say.

    Parameters
    ----------
    module
        Its main calls :func:`serve`.
    folder
        Where they find their data, and leave their logs; cleared away by them if this process ends before they do.
    orders
        What each is to do, JSON-able, with the ``"device"`` it does it on.
    tell
        Called with every message.

    Raises
    ------
    RuntimeError
        One ended before it was done.
    NonFiniteLossError
        The loss became NaN or infinite.
    """
    with started(module, folder, orders) as workers:
        _follow(workers, tell)


@contextmanager
def started(module: str, folder: Path, orders: Sequence[dict[str, Any]]) -> Iterator[list[tuple[Any, str, Path]]]:
    """Start the processes; none outlives the block."""
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
            if NOT_FINITE in message:
                raise NonFiniteLossError(message[NOT_FINITE])
            if tell is not None:
                tell(message)
            continue
        going -= 1
        if code := worker.wait():
            tail = "\n".join(log.read_text().strip().splitlines()[-5:])
            raise RuntimeError(
                f"the process on {place} ended with code {code} before its part was trained. What checkpoint_dir holds, if it was "
                f"given, is kept: the same call goes on from there.{tail and chr(10)}{tail}"
            )


def serve(orders: str, work: Callable[[dict[str, Any], Say], None]) -> int:
    """Do, in a process that was started by :func:`run_workers`, what the orders say; return its exit code."""
    wanted = json.loads(orders)
    threading.Thread(target=_end_with_parent, args=(wanted["task"],), daemon=True).start()
    output = os.fdopen(os.dup(1), "w")  # for messages alone; what else is printed goes to the log
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        print(MESSAGE + json.dumps(message), file=output, flush=True)

    try:
        work(wanted, say)
    except NonFiniteLossError as error:
        say({NOT_FINITE: str(error)})
    return 0


def _end_with_parent(folder: str) -> None:
    """End when the other end of standard input closes, as it does however the parent ends, and clear away what it left."""
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
