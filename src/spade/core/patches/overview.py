"""Parts of an image, or all of it, at a low resolution; memory holds a chunk of pixels and the result."""

from __future__ import annotations

from itertools import pairwise
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats
from spade.core.compiled import compiled
from spade.core.patches.tiles import Level, Pixels

#: Approximate longest side, in pixels, of an image that is drawn.
MAX_PX = 1_200


def read_region(levels: list[Level], box: Floats, max_px: int = MAX_PX) -> tuple[Pixels, Floats]:
    """Read part of an image at a low resolution, chunk by chunk.

    Parameters
    ----------
    levels
        Resolutions, finest first.
    box
        (x0, y0, x1, y1) in pixels of the finest level; the part beyond the image is left out.
    max_px
        Approximate longest side of the result.

    Returns
    -------
    ``(height, width, 3)`` pixels, and the box that they cover; of size 0 if ``box`` shows nothing of the image.
    """
    height, width = levels[0].shape
    x0, x1 = np.clip(box[[0, 2]], 0, width)
    y0, y1 = np.clip(box[[1, 3]], 0, height)
    if x1 <= x0 or y1 <= y0:
        return np.empty((0, 0, 3), dtype=np.uint8), np.array([x0, y0, x0, y0])
    longest = max(x1 - x0, y1 - y0)
    fine_enough = [level for level in levels if longest / max(level.downsample) >= max_px]
    level = max(fine_enough, key=lambda one: max(one.downsample), default=levels[0])
    dy, dx = level.downsample
    left, right = floor(x0 / dx), min(ceil(x1 / dx), level.shape[1])
    top, bottom = floor(y0 / dy), min(ceil(y1 / dy), level.shape[0])
    step = min(max(1, round(longest / max(dy, dx) / max_px)), right - left, bottom - top)
    n_rows, n_columns = (bottom - top) // step, (right - left) // step
    window = (top, top + n_rows * step, left, left + n_columns * step)
    out = _shrunk(level, window, step)
    covered = [left * dx, top * dy, (left + n_columns * step) * dx, (top + n_rows * step) * dy]
    return out, np.array(covered)


def _shrunk(level: Level, window: tuple[int, int, int, int], step: int) -> Pixels:
    """Return the rounded means of blocks of ``step × step`` pixels; every chunk is read once.

    ``window`` has the first and last rows and columns of whole blocks. A row of blocks that ends in the next row of
    chunks is kept until then.
    """
    top, bottom, left, right = window
    out = np.empty(((bottom - top) // step, (right - left) // step, 3), dtype=np.uint8)
    kept = np.zeros((0, *out.shape[1:]), dtype=np.uint32)
    for y0, y1 in _between(level.y_edges, top, bottom):
        first, last = (y0 - top) // step, (y1 - top) // step
        sums = np.zeros((-(-(y1 - top) // step) - first, *out.shape[1:]), dtype=np.uint32)
        sums[: len(kept)] = kept
        for x0, x1 in _between(level.x_edges, left, right):
            _add(level.read(y0, y1, x0, x1), sums, y0 - top - first * step, x0 - left, step)
        out[first:last] = np.round(sums[: last - first] / step**2)
        kept = sums[last - first :]
    return out


def _between(edges: NDArray[np.int64], low: int, high: int) -> list[tuple[int, int]]:
    """Return the parts between edges that lie in a range, cut to it."""
    inner = edges[(edges > low) & (edges < high)].tolist()
    return list(pairwise([low, *inner, high]))


@compiled()
def _add(block, sums, top, left, step):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add the pixels of ``(3, height, width)`` to the sums of the blocks ``(rows, columns, 3)`` in which they lie."""
    _, height, width = block.shape
    for channel in range(3):
        for y in range(height):
            i, j, x = (top + y) // step, left // step, 0
            while x < width:
                end = min((j + 1) * step - left, width)
                total = np.uint32(0)
                for k in range(x, end):
                    total += np.uint32(block[channel, y, k])
                sums[i, j, channel] += total
                j, x = j + 1, end
