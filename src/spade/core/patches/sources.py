"""Patches by row, in any order: out of images, out of a file made once, or out of memory; and batches read ahead."""

from __future__ import annotations

import errno
import shutil
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from tokenize import TokenError
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats
from spade.core.files import write_atomically
from spade.core.patches.tiles import CACHE_BYTES, ChunkCache, Level, Pixels, chunk_order, on_level, read_patch

Rows = NDArray[np.int64]


class PatchSource(Protocol):
    """Patches by row: ``(n_px, n_px, 3)`` uint8 each."""

    n_px: int

    def __len__(self) -> int:
        """Return the number of patches."""

    def take(self, rows: Rows) -> Pixels:
        """Return ``(len(rows), n_px, n_px, 3)`` in the order of ``rows``; safe to call from several threads."""


@dataclass(frozen=True)
class SectionPatches:
    """The patches of one section.

    Attributes
    ----------
    levels
        Resolutions of its image, finest first.
    centres
        ``(m, 2)`` as (y, x) in pixels of the finest level.
    px_per_patch
        Side of a patch in pixels of the finest level.
    """

    levels: list[Level]
    centres: Floats
    px_per_patch: float


class _Chunks:
    """Chunks of many images, shared by threads; the least recently used ones are forgotten.

    The lock is held while books are kept, never while a chunk is read; two threads that miss the same chunk at once both read it.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.bytes, self.lock = max_bytes, 0, Lock()
        self.chunks: OrderedDict[tuple[int, int, int], Pixels] = OrderedDict()

    def get(self, key: tuple[int, int, int], read: Callable[[], Pixels]) -> Pixels:
        """Return a chunk, read or remembered."""
        with self.lock:
            if key in self.chunks:
                self.chunks.move_to_end(key)
                return self.chunks[key]
        block = read()
        with self.lock:
            if key not in self.chunks:
                self.chunks[key] = block
                self.bytes += block.nbytes
            while self.bytes > self.max_bytes and len(self.chunks) > 1:
                self.bytes -= self.chunks.popitem(last=False)[1].nbytes
        return block


class _SharedCache(ChunkCache):
    """Windows out of one level whose chunks lie among those of others."""

    def __init__(self, level: Level, section: int, shared: _Chunks) -> None:
        super().__init__(level)
        self.section, self.shared = section, shared

    def chunk(self, row: int, column: int) -> Pixels:
        """Return one chunk, read or remembered."""
        return self.shared.get((self.section, row, column), lambda: self.read(row, column))


class LivePatches:
    """Patches that are read from images when they are asked for, equal to those of :func:`spade.core.patches.tiles.iter_patches`.

    Parameters
    ----------
    sections
        Rows are the centres of the first, then of the second, and so on.
    n_px
        Side of the patches returned.
    max_bytes
        Size of the cache of chunks that all sections and threads share; on top of it come one chunk per thread and the batches.
    """

    def __init__(self, sections: Sequence[SectionPatches], n_px: int, max_bytes: int = 4 * CACHE_BYTES) -> None:
        if not any(len(section.centres) for section in sections):
            raise ValueError(f"sections: there is no patch in any of {len(sections)}.")
        self.n_px = n_px
        found = [on_level(placed.levels, placed.centres, placed.px_per_patch, n_px) for placed in sections]
        shared = _Chunks(max_bytes)
        self._caches = [_SharedCache(level, i, shared) for i, (level, _, _) in enumerate(found)]
        self._sizes = [size for _, _, size in found]
        self._centres = np.concatenate([local for _, local, _ in found])
        self._section = np.repeat(np.arange(len(found)), [len(local) for _, local, _ in found])
        keys = [chunk_order(level, local) for level, local, _ in found]
        #: All rows, section by section and chunk by chunk.
        self.order: Rows = np.lexsort((*(np.concatenate(key) for key in zip(*keys, strict=True)), self._section))
        self._rank = np.empty_like(self.order)
        self._rank[self.order] = np.arange(len(self.order))

    def __len__(self) -> int:
        """Return the number of patches."""
        return len(self.order)

    def take(self, rows: Rows) -> Pixels:
        """Return patches ``(len(rows), n_px, n_px, 3)``, read chunk by chunk."""
        out = np.empty((len(rows), self.n_px, self.n_px, 3), dtype=np.uint8)
        for place in np.argsort(self._rank[rows], kind="stable"):
            row = rows[place]
            section = self._section[row]
            out[place] = read_patch(self._caches[section], self._centres[row], self._sizes[section], self.n_px)
        return out


class GivenPatches:
    """Patches in memory, ``(n, n_px, n_px, 3)`` uint8."""

    def __init__(self, patches: Pixels) -> None:
        if patches.dtype != np.uint8 or patches.ndim != 4 or patches.shape[1:] != (patches.shape[1],) * 2 + (3,):
            raise ValueError(f"patches: got {patches.dtype} {patches.shape}; expected uint8 (n, px, px, 3).")
        self.patches, self.n_px = np.asarray(patches), patches.shape[1]

    def __len__(self) -> int:
        """Return the number of patches."""
        return len(self.patches)

    def take(self, rows: Rows) -> Pixels:
        """Return patches ``(len(rows), n_px, n_px, 3)``."""
        return np.take(self.patches, rows, axis=0)


class MappedPatches(GivenPatches):
    """Patches in a ``.npy`` file, ``(n, n_px, n_px, 3)`` uint8, of which only what is asked for is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            super().__init__(np.lib.format.open_memmap(path, mode="r"))
        except (ValueError, OverflowError, SyntaxError, TokenError) as error:
            raise ValueError(f"{path} is no file of patches ({error}); was it cut off or edited? Delete it.") from error


def write_patches(
    path: Path, source: LivePatches, progress: Callable[[int], None] | None = None, batch: int = 64
) -> MappedPatches:
    """Write all patches into a file, which is there whole or not at all, chunk by chunk of the images.

    Parameters
    ----------
    path
        A ``.npy`` file in a folder that is there; replaced if it is.
    source
        The patches; only a batch of them is held in memory.
    progress
        Called after every batch with the number of its patches.
    batch
        Patches read at a time.

    Returns
    -------
    The same patches, from the file.

    Raises
    ------
    OSError
        There is not enough room.
    """
    shape = (len(source), source.n_px, source.n_px, 3)
    needed, free = int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"{shape[0]} patches of {source.n_px}×{source.n_px} pixels take {needed / 1e9:.3g} GB, but {free / 1e9:.3g} GB are "
            "free. Make room, or choose another folder",
            str(path),
        )

    def write(part: Path) -> None:  # not through a memory map: a disk that runs full would kill the process
        with part.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            first, step = file.tell(), needed // len(source)
            for start in range(0, len(source), batch):
                rows = source.order[start : start + batch]
                for row, patch in zip(rows.tolist(), source.take(rows), strict=True):
                    file.seek(first + row * step)
                    file.write(patch.data)
                if progress is not None:
                    progress(len(rows))

    write_atomically(path, write)
    return MappedPatches(path)


def batches(source: PatchSource, rows: Iterable[Rows], n_workers: int) -> Iterator[Pixels]:
    """Read batches in order, ahead of who uses them.

    Parameters
    ----------
    source
        The patches.
    rows
        Rows of every batch.
    n_workers
        Threads that read; at most one batch more than these is in flight. 0: read when a batch is asked for.

    Yields
    ------
    ``source.take`` of every item of ``rows``. What a reader raises is raised here in place of its batch; no thread is left behind,
    however it ends.
    """
    if n_workers == 0:
        yield from map(source.take, rows)
        return
    pool = ThreadPoolExecutor(n_workers, thread_name_prefix="patches")
    ahead: deque[Future[Pixels]] = deque()
    try:
        for some in rows:
            ahead.append(pool.submit(source.take, some))
            if len(ahead) > n_workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
