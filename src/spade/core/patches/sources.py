"""Patches by row, in any order, from images, from one file or from memory; and batches that are read ahead."""

from __future__ import annotations

import errno
import hashlib
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

from spade.core.arrays import Floats, Rows
from spade.core.files import digest, write_atomically
from spade.core.patches.tiles import CACHE_BYTES, ChunkCache, Level, Pixels, chunk_order, on_level, read_patch


class PatchSource(Protocol):
    """Patches by row, each ``(n_px, n_px, 3)`` uint8."""

    n_px: int

    def __len__(self) -> int:
        """Return the number of patches."""

    def take(self, rows: Rows) -> Pixels:
        """Return ``(len(rows), n_px, n_px, 3)`` in the order of ``rows``; several threads may call it at once."""


@dataclass(frozen=True)
class SectionPatches:
    """The patches of one section.

    Attributes
    ----------
    levels
        Resolutions of the image, finest first.
    centres
        ``(m, 2)`` as (y, x) in pixels of the finest level.
    px_per_patch
        Side of a patch in pixels of the finest level.
    """

    levels: list[Level]
    centres: Floats
    px_per_patch: float


class _Chunks:
    """A cache of chunks of many images, shared by threads; it drops the least recently used chunks.

    A thread holds the lock only while it changes the cache, never while it reads a chunk. Two threads that miss the
    same chunk at the same time both read it.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.bytes, self.lock = max_bytes, 0, Lock()
        self.chunks: OrderedDict[tuple[int, int, int], Pixels] = OrderedDict()

    def get(self, key: tuple[int, int, int], read: Callable[[], Pixels]) -> Pixels:
        """Return a chunk from the cache, or read it."""
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
    """Windows of one level whose chunks are in a cache that many levels share."""

    def __init__(self, level: Level, section: int, shared: _Chunks) -> None:
        super().__init__(level)
        self.section, self.shared = section, shared

    def chunk(self, row: int, column: int) -> Pixels:
        """Return one chunk from the shared cache, or read it."""
        return self.shared.get((self.section, row, column), lambda: self.read(row, column))


class LivePatches:
    """Patches that are read from images on request; the same as :func:`spade.core.patches.tiles.iter_patches` gives.

    Parameters
    ----------
    sections
        Their images and centres. Rows number the centres of the first section, then those of the second, and so on.
    n_px
        Side of the patches returned.
    max_bytes
        Size of the cache that all sections and threads share. One chunk per thread and the batches come on top of it.
    """

    def __init__(self, sections: Sequence[SectionPatches], n_px: int, max_bytes: int = 4 * CACHE_BYTES) -> None:
        if not any(len(section.centres) for section in sections):
            raise ValueError(f"sections: no patch in any of them, number of sections {len(sections)}.")
        self.n_px = n_px
        placed = [on_level(section.levels, section.centres, section.px_per_patch, n_px) for section in sections]
        shared = _Chunks(max_bytes)
        self._caches = [_SharedCache(level, i, shared) for i, (level, _, _) in enumerate(placed)]
        self._sizes = [size for _, _, size in placed]
        self._centres = np.concatenate([local for _, local, _ in placed])
        self._section = np.repeat(np.arange(len(placed)), [len(local) for _, local, _ in placed])
        keys = [chunk_order(level, local) for level, local, _ in placed]
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
            read_patch(self._caches[section], self._centres[row], self._sizes[section], self.n_px, out[place])
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
    """Patches in a ``.npy`` file, ``(n, n_px, n_px, 3)`` uint8; only the rows asked for are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            super().__init__(np.lib.format.open_memmap(path, mode="r"))
        except (ValueError, OverflowError, SyntaxError, TokenError) as error:
            raise ValueError(
                f"{path} is not a file of patches ({error}); was it cut off or edited? Delete it."
            ) from error


def write_patches(
    path: Path, source: LivePatches, progress: Callable[[int], None] | None = None, batch: int = 64
) -> MappedPatches:
    """Write all patches into a file, completely or not at all, in the order of the images' chunks.

    Parameters
    ----------
    path
        A ``.npy`` file in an existing folder. An existing file is replaced.
    source
        The patches; memory holds only one batch of them.
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
        The disk has not enough space.
    """
    shape = (len(source), source.n_px, source.n_px, 3)
    needed, free = int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"{shape[0]} patches of {source.n_px}×{source.n_px} pixels take {needed / 1e9:.3g} GB, but only "
            f"{free / 1e9:.3g} GB are free. Make room, or choose another folder",
            str(path),
        )

    def write(part: Path) -> None:  # not through a memory map: a full disk would kill the process
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


def digest_patches(
    source: PatchSource, order: Rows | None = None, progress: Callable[[int], None] | None = None, batch: int = 64
) -> str:
    """Return a digest of all pixels of all patches, the same wherever they are read from and in whatever order.

    It reads every patch once, which takes as long as writing them into a file, and keeps 32 bytes of each in memory.

    Parameters
    ----------
    source
        The patches.
    order
        All rows, in the order in which they are read best; None: as they are.
    progress, batch
        As in :func:`write_patches`.
    """
    rows = np.arange(len(source)) if order is None else order
    digests = np.empty((len(source), hashlib.sha256().digest_size), dtype=np.uint8)
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        for row, patch in zip(part.tolist(), source.take(part), strict=True):
            digests[row] = np.frombuffer(hashlib.sha256(np.ascontiguousarray(patch).data).digest(), dtype=np.uint8)
        if progress is not None:
            progress(len(part))
    return digest(digests)


def batches(source: PatchSource, rows: Iterable[Rows], n_workers: int) -> Iterator[Pixels]:
    """Read batches in order, ahead of their use.

    Parameters
    ----------
    source
        The patches.
    rows
        Rows of every batch.
    n_workers
        Threads that read. At most one batch more than there are threads is read ahead. 0 reads each batch on request.

    Yields
    ------
    ``source.take`` of every item of ``rows``. An error of a thread is raised in place of its batch. No thread outlives
    the generator.
    """
    if n_workers == 0:
        yield from map(source.take, rows)
        return
    pool = ThreadPoolExecutor(n_workers, thread_name_prefix="patches")
    ahead: deque[Future[Pixels]] = deque()
    try:
        for batch in rows:
            ahead.append(pool.submit(source.take, batch))
            if len(ahead) > n_workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
