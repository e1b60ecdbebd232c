"""Lazy images of which every chunk needs the same large result, such as the whole image decoded from its file."""

from __future__ import annotations

import logging
import tempfile
from functools import cached_property
from threading import Lock
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.typing import Key
from numpy.typing import NDArray

logger = logging.getLogger("spade")
#: Bytes of a shared result that are held in memory; a larger one is held in a temporary file.
MOST_HELD = 2 * 2**30
#: Bytes of a shared result that takes noticeable time to compute at every call.
WORTH_SAYING = 2**29


class SharedResults:
    """Results that all chunks of the levels of an image need, each computed once and held while the image is read."""

    def __init__(self) -> None:
        self.held: dict[Key, NDArray[Any]] = {}
        self.lock = Lock()

    def of(self, graph: dict[Key, Any], key: Key) -> NDArray[Any] | None:
        """Return the result of a task, computed at the first call by any thread; None if it is not an array."""
        with self.lock:
            return self._of(graph, key)

    def _of(self, graph: dict[Key, Any], key: Key) -> NDArray[Any] | None:
        if key not in self.held:
            result: Any = dask.get(graph, key)
            if not isinstance(result, np.ndarray):
                return None
            logger.log(
                logging.INFO if result.nbytes >= WORTH_SAYING else logging.DEBUG,
                "every chunk of a lazy image needs the same %s of %d MB: computed once and held %s. Write the object "
                "with sp.io.write to read single chunks",
                " × ".join(map(str, result.shape)),
                result.nbytes >> 20,
                "in memory" if result.nbytes <= MOST_HELD else "in a temporary file",
            )
            self.held[key] = result if result.nbytes <= MOST_HELD else in_file(result)
        return self.held[key]


class LazyPixels:
    """A dask array that is sliced like one; what all its chunks share is computed once, at the first slice."""

    def __init__(self, data: da.Array, results: SharedResults) -> None:
        self.data, self.results = data, results

    def __getitem__(self, window: tuple[slice, ...]) -> da.Array:
        return self.independent[window]

    @cached_property
    def independent(self) -> da.Array:
        """The array with the shared results in place of the tasks that compute them."""
        shared = shared_keys(self.data)
        if not shared:
            return self.data
        graph = dict(self.data.dask)
        needed = dict(self.data.dask.cull(shared))
        for key in shared:
            if (result := self.results.of(needed, key)) is not None:
                graph[key] = result
        return da.Array(graph, self.data.name, self.data.chunks, meta=self.data)


def shared_keys(data: da.Array) -> set[Key]:
    """Return the last tasks that the first and the last chunk both need; empty if they share none, or are the same."""
    keys = [(data.name, *index) for index in ((0,) * data.ndim, tuple(n - 1 for n in data.numblocks))]
    if keys[0] == keys[1]:
        return set()
    parts = [data.dask.cull([key]) for key in keys]
    both = set(dict(parts[0])) & set(dict(parts[1]))
    needed_by = parts[0].get_all_dependencies()
    return {key for chunk, needs in needed_by.items() if chunk not in both for key in needs if key in both}


def in_file(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array whose values lie in a temporary file, which goes with it."""
    with tempfile.TemporaryFile(prefix="spade-") as file:
        mapped = np.memmap(file, dtype=values.dtype, mode="w+", shape=values.shape)
    mapped[...] = values
    return mapped
