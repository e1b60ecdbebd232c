"""Items that threads read ahead of their use, in their order."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from threading import Event, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")
#: Seconds after which a thread that waits for room looks whether it is still needed.
PAUSE = 0.05


def n_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class _Read(Generic[Item]):
    """What a thread has read: an item; or none, with the error that came instead, or as a stream has ended."""

    item: Item | None = None
    error: BaseException | None = None


def read_ahead(streams: Sequence[Callable[[], Iterable[Item]]], n_threads: int, depth: int) -> Generator[Item]:
    """Read streams in threads, ahead of their use.

    Parameters
    ----------
    streams
        Each is opened by one thread, which reads it to its end. The streams are dealt to the threads in turn.
    n_threads
        Number of threads.
    depth
        Items that a thread holds at most, beside the one that it reads.

    Yields
    ------
    The items of the first stream, then those of the second, and so on. An error of a thread is raised in the place of
    the item that it did not read. Close the generator to end it early; no thread outlives it.
    """
    n_threads = max(1, min(n_threads, len(streams)))
    ended = Event()
    queues: list[queue.Queue[_Read[Item]]] = [queue.Queue(depth) for _ in range(n_threads)]

    def put(number: int, read: _Read[Item]) -> bool:
        while not ended.is_set():
            try:
                queues[number].put(read, timeout=PAUSE)
            except queue.Full:
                continue
            return True
        return False

    def work(number: int) -> None:
        try:
            for stream in streams[number::n_threads]:
                for item in stream():
                    if not put(number, _Read(item)):
                        return
                if not put(number, _Read()):
                    return
        except BaseException as error:  # noqa: BLE001, raised in the thread that waits for the item
            put(number, _Read(error=error))

    threads = [Thread(target=work, args=(i,), name=f"patches-{i}", daemon=True) for i in range(n_threads)]
    try:
        for thread in threads:
            thread.start()
        for number in range(len(streams)):
            while (read := queues[number % n_threads].get()).item is not None:
                yield read.item
            if read.error is not None:
                raise read.error
    finally:
        ended.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
