"""Square patches cut from chunked images; chunks are read in order and kept in a bounded cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats
from spade.core.compiled import compiled

#: Bytes of image that a cache keeps.
CACHE_BYTES = 256 * 2**20
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Level:
    """One resolution of an image.

    Attributes
    ----------
    read
        ``read(y0, y1, x0, x1)`` returns ``(3, y1 - y0, x1 - x0)`` uint8.
    y_edges, x_edges
        Borders of the chunks along each axis, from 0 to the size.
    downsample
        Pixels of the finest level per pixel of this one, along y and x.
    opacity
        ``opacity(y0, y1, x0, x1)`` returns ``(y1 - y0, x1 - x0)`` uint8, 0 where a pixel is wholly transparent. None:
        nothing is transparent.
    """

    read: Callable[[int, int, int, int], Pixels]
    y_edges: NDArray[np.int64]
    x_edges: NDArray[np.int64]
    downsample: tuple[float, float] = (1.0, 1.0)
    opacity: Callable[[int, int, int, int], Pixels] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.y_edges[-1]), int(self.x_edges[-1])


class ChunkCache:
    """Windows of one level, cut from whole chunks; the cache drops the least recently used chunks."""

    def __init__(self, level: Level, max_bytes: int = CACHE_BYTES) -> None:
        self.level = level
        self.max_bytes = max_bytes
        self.chunks: OrderedDict[tuple[int, int], Pixels] = OrderedDict()
        self.bytes = 0

    def chunk(self, row: int, column: int) -> Pixels:
        """Return one chunk from the cache, or read it."""
        key = (row, column)
        if key in self.chunks:
            self.chunks.move_to_end(key)
            return self.chunks[key]
        block = self.read(row, column)
        self.chunks[key] = block
        self.bytes += block.nbytes
        while self.bytes > self.max_bytes and len(self.chunks) > 1:
            self.bytes -= self.chunks.popitem(last=False)[1].nbytes
        return block

    def read(self, row: int, column: int) -> Pixels:
        """Read one chunk."""
        y, x = self.level.y_edges, self.level.x_edges
        return self.level.read(int(y[row]), int(y[row + 1]), int(x[column]), int(x[column + 1]))

    def window(self, y0: int, y1: int, x0: int, x1: int) -> Pixels:
        """Return ``(3, y1 - y0, x1 - x0)``, which must lie inside the level."""
        y, x = self.level.y_edges, self.level.x_edges
        out = np.empty((3, y1 - y0, x1 - x0), dtype=np.uint8)
        for row in range(int(np.searchsorted(y, y0, "right")) - 1, int(np.searchsorted(y, y1))):
            for column in range(int(np.searchsorted(x, x0, "right")) - 1, int(np.searchsorted(x, x1))):
                top, bottom = max(y0, int(y[row])), min(y1, int(y[row + 1]))
                left, right = max(x0, int(x[column])), min(x1, int(x[column + 1]))
                block = self.chunk(row, column)
                out[:, top - y0 : bottom - y0, left - x0 : right - x0] = block[
                    :, top - int(y[row]) : bottom - int(y[row]), left - int(x[column]) : right - int(x[column])
                ]
        return out


def _weights(start: float, step: float, n_out: int, low: int, high: int) -> tuple[NDArray[np.int64], Floats]:
    """Return the source indices and triangle-filter weights of every output pixel.

    Output pixel i covers ``[start + i·step, start + (i + 1)·step)`` in source pixels; indices beyond the image are
    mirrored. The filter is bilinear when it enlarges. When it shrinks, it widens with ``step``, to avoid aliasing.
    """
    support = max(1.0, step)
    centre = start + (np.arange(n_out) + 0.5) * step
    first = np.floor(centre - support + 0.5).astype(np.int64)
    taps = first[:, None] + np.arange(int(np.ceil(2 * support)) + 1)
    weight = np.maximum(0, 1 - np.abs(taps + 0.5 - centre[:, None]) / support)
    weight /= weight.sum(1, keepdims=True)
    return mirror(taps, low, high), weight.astype(np.float32)


def mirror(index: NDArray[np.int64], low: int, high: int) -> NDArray[np.int64]:
    """Reflect indices into ``[low, high)`` at the borders; the border pixel is repeated."""
    size = high - low
    folded = np.mod(index - low, 2 * size)
    return low + np.where(folded < size, folded, 2 * size - 1 - folded)


@compiled()
def _resample(window, y_taps, y_weights, x_taps, x_weights, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    n_channels, height, _ = window.shape
    n_out = out.shape[1]
    rows = np.zeros((height, n_out), dtype=np.float32)
    for channel in range(n_channels):
        for y in range(height):
            for j in range(n_out):
                value = np.float32(0)
                for t in range(x_taps.shape[1]):
                    value += x_weights[j, t] * window[channel, y, x_taps[j, t]]
                rows[y, j] = value
        for i in range(out.shape[0]):
            for j in range(n_out):
                value = np.float32(0)
                for t in range(y_taps.shape[1]):
                    value += y_weights[i, t] * rows[y_taps[i, t], j]
                out[i, j, channel] = np.uint8(min(max(value, np.float32(0)), np.float32(255)) + np.float32(0.5))


def _span(taps: NDArray[np.int64]) -> tuple[int, int]:
    return int(taps.min()), int(taps.max()) + 1


def read_patch(cache: ChunkCache, centre: Floats, size: tuple[float, float], n_px: int) -> Pixels:
    """Read one patch.

    Parameters
    ----------
    cache
        The level to read from.
    centre
        ``(y, x)`` in pixels of the level.
    size
        Height and width in pixels of the level.
    n_px
        Side of the result. Reflection fills the part of a patch that lies beyond the image.

    Returns
    -------
    ``(n_px, n_px, 3)`` uint8.
    """
    height, width = cache.level.shape
    steps = size[0] / n_px, size[1] / n_px
    exact = max(abs(step - 1) for step in steps) < 1e-6
    # at the resolution of the level, whole pixels avoid a needless blur
    starts = [centre[axis] - size[axis] / 2 for axis in (0, 1)]
    if exact:
        y, x = (mirror(round(start) + np.arange(n_px), 0, n) for start, n in zip(starts, (height, width), strict=True))
        (y0, y1), (x0, x1) = _span(y), _span(x)
        window = cache.window(y0, y1, x0, x1)
        if y1 - y0 == n_px and x1 - x0 == n_px and y[0] == y0 and x[0] == x0:
            return window.transpose(1, 2, 0)
        return window[:, (y - y0)[:, None], (x - x0)[None, :]].transpose(1, 2, 0)
    y_taps, y_weights = _weights(starts[0], steps[0], n_px, 0, height)
    x_taps, x_weights = _weights(starts[1], steps[1], n_px, 0, width)
    (y0, y1), (x0, x1) = _span(y_taps), _span(x_taps)
    out = np.empty((n_px, n_px, 3), dtype=np.uint8)
    _resample(cache.window(y0, y1, x0, x1), y_taps - y0, y_weights, x_taps - x0, x_weights, out)
    return out


def choose_level(levels: list[Level], px_per_patch: float, n_px: int) -> Level:
    """Return the coarsest level that has at least the wanted resolution, else the finest.

    ``px_per_patch`` is the side of a patch in pixels of the finest level.
    """
    fine_enough = [level for level in levels if px_per_patch / max(level.downsample) >= n_px * (1 - 1e-3)]
    return max(fine_enough, key=lambda level: max(level.downsample), default=levels[0])


def on_level(
    levels: list[Level], centres: Floats, px_per_patch: float, n_px: int
) -> tuple[Level, Floats, tuple[float, float]]:
    """Return the level to read patches from, and the centres and size of patches in its pixels."""
    level = choose_level(levels, px_per_patch, n_px)
    scale = np.asarray(level.downsample)
    return level, np.asarray(centres, dtype=np.float64) / scale, (px_per_patch / scale[0], px_per_patch / scale[1])


def show_anything(levels: list[Level], centres: Floats, px_per_patch: float, n_px: int) -> NDArray[np.bool_]:
    """Return which patches, whose centres lie in the image, have a pixel that is not wholly transparent.

    The arguments are those of :func:`iter_patches`.
    """
    level, local, size = on_level(levels, centres, px_per_patch, n_px)
    if level.opacity is None:
        return np.ones(len(local), dtype=bool)
    shape = np.array(level.shape)
    low = np.clip(np.floor(local - np.array(size) / 2).astype(np.int64), 0, shape - 1)
    high = np.clip(np.ceil(local + np.array(size) / 2).astype(np.int64), low + 1, shape)
    return np.array(
        [level.opacity(y0, y1, x0, x1).any() for (y0, x0), (y1, x1) in zip(low.tolist(), high.tolist(), strict=True)],
        dtype=bool,
    )


def chunk_order(level: Level, local: Floats) -> tuple[NDArray[np.generic], ...]:
    """Return keys with which ``np.lexsort`` puts centres, in pixels of a level, into the order of its chunks."""
    rows = np.searchsorted(level.y_edges, local[:, 0], "right")
    columns = np.searchsorted(level.x_edges, local[:, 1], "right")
    return local[:, 0], columns, rows


def iter_patches(
    levels: list[Level], centres: Floats, px_per_patch: float, n_px: int, batch_size: int
) -> Iterator[tuple[NDArray[np.int64], Pixels]]:
    """Read patches in chunk order.

    Parameters
    ----------
    levels
        Resolutions of one image, finest first.
    centres
        ``(n, 2)`` as (y, x) in pixels of the finest level.
    px_per_patch
        Side of a patch in pixels of the finest level.
    n_px
        Side of the patches returned.
    batch_size
        Patches per batch.

    Yields
    ------
    Positions in ``centres`` and patches ``(b, n_px, n_px, 3)`` uint8.
    """
    level, local, size = on_level(levels, centres, px_per_patch, n_px)
    order = np.lexsort(chunk_order(level, local))
    cache = ChunkCache(level)
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        yield index, np.stack([read_patch(cache, local[i], size, n_px) for i in index])
