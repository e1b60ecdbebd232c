"""Threads within one torch operation, and operations side by side in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

#: A function that is called as ``map`` is.
Map = Callable[..., Iterator[Any]]


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Use ``n`` threads within each torch operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def parallel_map() -> Iterator[Map]:
    """Give a ``map`` whose calls run side by side, each in one thread, so that none waits for another."""
    n = torch.get_num_threads()
    if n == 1:
        yield map
        return
    with threads(n), ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool.map
