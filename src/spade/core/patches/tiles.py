"""Square patches cut from chunked images; chunks are read in order and kept in a bounded cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

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
        ``read(y0, y1, x0, x1)`` returns ``(3, y1 - y0, x1 - x0)`` uint8, in any order of memory.
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
        out = np.empty((3, y1 - y0, x1 - x0), dtype=np.uint8)
        self.fill(out, y0, x0)
        return out

    def fill(self, out: Pixels, y0: int, x0: int) -> None:
        """Fill ``(channels, height, width)`` with the window from ``y0``, ``x0`` on; it lies inside the level."""
        y, x = self.level.y_edges, self.level.x_edges
        y1, x1 = y0 + out.shape[1], x0 + out.shape[2]
        for row in range(int(np.searchsorted(y, y0, "right")) - 1, int(np.searchsorted(y, y1))):
            for column in range(int(np.searchsorted(x, x0, "right")) - 1, int(np.searchsorted(x, x1))):
                top, bottom = max(y0, int(y[row])), min(y1, int(y[row + 1]))
                left, right = max(x0, int(x[column])), min(x1, int(x[column + 1]))
                _place(
                    self.chunk(row, column),
                    (top - int(y[row]), left - int(x[column])),
                    out,
                    (top - y0, left - x0),
                    (bottom - top, right - left),
                )


def _place(block: Pixels, source: tuple[int, int], out: Pixels, place: tuple[int, int], size: tuple[int, int]) -> None:
    """Copy a part of ``(channels, height, width)`` to a place in another array; corners and size are (y, x)."""
    pixels = out.transpose(1, 2, 0)
    if len(out) == 3 and pixels.flags.c_contiguous and block.flags.c_contiguous:
        _interleave(block, source, pixels.reshape(len(pixels), -1), place, size)
        return
    part = block[:, source[0] : source[0] + size[0], source[1] : source[1] + size[1]]
    target = out[:, place[0] : place[0] + size[0], place[1] : place[1] + size[1]]
    for channel, values in zip(target, part, strict=True):  # all at once, numpy changes the order slowly
        channel[:] = values


@compiled()
def _interleave(block, source, out, place, size):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Copy a part of ``(3, height, width)`` into ``(height, 3 * width)``; each row in one loop."""
    (top, left), (y0, x0), (height, width) = source, place, size
    for y in range(height):
        red, green, blue = (
            block[0, top + y, left : left + width],
            block[1, top + y, left : left + width],
            block[2, top + y, left : left + width],
        )
        row = out[y0 + y, 3 * x0 : 3 * (x0 + width)]
        for x in range(width):
            row[3 * x], row[3 * x + 1], row[3 * x + 2] = red[x], green[x], blue[x]


@compiled()
def _weights(start, step, n_out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the source indices and triangle-filter weights of every output pixel, ``(taps, n_out)``.

    Output pixel i covers ``[start + i·step, start + (i + 1)·step)`` in source pixels. The filter is bilinear when it
    enlarges. When it shrinks, it widens with ``step``, to avoid aliasing.
    """
    support = max(1.0, step)
    n_taps = int(np.ceil(2 * support)) + 1
    taps, weights = np.empty((n_taps, n_out), dtype=np.int64), np.empty((n_taps, n_out), dtype=np.float32)
    parts = np.empty(n_taps)
    for i in range(n_out):
        centre = start + (i + 0.5) * step
        first = int(np.floor(centre - support + 0.5))
        for t in range(n_taps):
            parts[t] = max(0.0, 1 - abs(first + t + 0.5 - centre) / support)
        total = parts.sum()
        for t in range(n_taps):
            taps[t, i], weights[t, i] = first + t, parts[t] / total
    return taps, weights


def _inside(start: float, step: float, n_out: int, size: int) -> tuple[NDArray[np.int64], Floats, int, int]:
    """Return source indices and weights along an axis, and the first and last index; those beyond are mirrored."""
    taps, weights = _weights(start, step, n_out)
    first, last = int(taps[0, 0]), int(taps[-1, -1])
    if first < 0 or last >= size:
        taps = mirror(taps, 0, size)
        first, last = int(taps.min()), int(taps.max())
    return taps - first, weights, first, last


def mirror(index: NDArray[np.int64], low: int, high: int) -> NDArray[np.int64]:
    """Reflect indices into ``[low, high)`` at the borders; the border pixel is repeated."""
    size = high - low
    folded = np.mod(index - low, 2 * size)
    return low + np.where(folded < size, folded, 2 * size - 1 - folded)


@compiled()
def _resample(window, y_taps, y_weights, x_taps, x_weights, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Resample ``(3, height, width)`` into ``(n, n, 3)``, row by row: along y first, whose loop runs over pixels."""
    rows = np.empty((3, window.shape[2]), dtype=np.float32)
    for i in range(out.shape[0]):
        rows[:] = np.float32(0.5)  # rounds what is cut off in the end
        for t in range(y_taps.shape[0]):
            weight = y_weights[t, i]
            if weight > 0:
                for channel in range(3):
                    row, source = rows[channel], window[channel, y_taps[t, i]]
                    for x in range(row.shape[0]):
                        row[x] += weight * np.float32(source[x])
        for j in range(out.shape[1]):
            red = green = blue = np.float32(0)
            for t in range(x_taps.shape[0]):
                weight, x = x_weights[t, j], x_taps[t, j]
                red += weight * rows[0, x]
                green += weight * rows[1, x]
                blue += weight * rows[2, x]
            out[i, j, 0], out[i, j, 1], out[i, j, 2] = np.uint8(red), np.uint8(green), np.uint8(blue)


def read_patch(
    cache: ChunkCache, centre: Floats, size: tuple[float, float], n_px: int, out: Pixels | None = None
) -> Pixels:
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
    out
        Where to write it; None: a new array.

    Returns
    -------
    ``(n_px, n_px, 3)`` uint8.
    """
    patch = np.empty((n_px, n_px, 3), dtype=np.uint8) if out is None else out
    height, width = cache.level.shape
    steps = size[0] / n_px, size[1] / n_px
    starts = [float(centre[axis]) - size[axis] / 2 for axis in (0, 1)]
    if (
        max(abs(step - 1) for step in steps) < 1e-6
    ):  # at the resolution of the level, whole pixels avoid a needless blur
        y0, x0 = (round(start) for start in starts)
        if min(y0, x0) >= 0 and y0 + n_px <= height and x0 + n_px <= width:
            cache.fill(patch.transpose(2, 0, 1), y0, x0)
            return patch
        y, x = (mirror(first + np.arange(n_px), 0, n) for first, n in ((y0, height), (x0, width)))
        window = cache.window(int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1)
        patch[:] = window[:, (y - y.min())[:, None], (x - x.min())[None, :]].transpose(1, 2, 0)
        return patch
    y_taps, y_weights, y0, y1 = _inside(starts[0], steps[0], n_px, height)
    x_taps, x_weights, x0, x1 = _inside(starts[1], steps[1], n_px, width)
    _resample(cache.window(y0, y1 + 1, x0, x1 + 1), y_taps, y_weights, x_taps, x_weights, patch)
    return patch


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
    opacity, shown = level.opacity, np.zeros(len(local), dtype=bool)
    cache = ChunkCache(replace(level, read=lambda y0, y1, x0, x1: opacity(y0, y1, x0, x1)[None]))
    for i in np.lexsort(chunk_order(level, local)):
        window = np.empty((1, *(high[i] - low[i])), dtype=np.uint8)
        cache.fill(window, *low[i].tolist())
        shown[i] = window.any()
    return shown


def chunk_order(level: Level, local: Floats, max_bytes: int = CACHE_BYTES) -> tuple[NDArray[np.generic], ...]:
    """Return keys with which ``np.lexsort`` puts centres, in pixels of a level, into the order of its chunks.

    A level is gone through in bands from top to bottom, so narrow that a cache of ``max_bytes`` holds three rows of
    their chunks and of the chunks beside them. Then no chunk is read twice, but for those at the borders of bands.
    """
    rows = np.searchsorted(level.y_edges, local[:, 0], "right")
    columns = np.searchsorted(level.x_edges, local[:, 1], "right")
    largest = 3 * int(np.diff(level.y_edges).max()) * int(np.diff(level.x_edges).max())
    return local[:, 0], columns, rows, columns // max(1, max_bytes // (3 * largest) - 2)


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
        patches = np.empty((len(index), n_px, n_px, 3), dtype=np.uint8)
        for i, patch in zip(index, patches, strict=True):
            read_patch(cache, local[i], size, n_px, patch)
        yield index, patches
