"""Parts of an image, or all of it, at a low resolution; memory holds a window of pixels and the result."""

from __future__ import annotations

from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats
from spade.core.patches.tiles import ChunkCache, Level, Pixels

#: Approximate longest side, in pixels, of an image that is drawn.
MAX_PX = 1_200
#: Rows and columns of pixels that are read at a time.
BAND, WIDTH = 512, 8_192


def read_region(levels: list[Level], box: Floats, max_px: int = MAX_PX) -> tuple[Pixels, Floats]:
    """Read part of an image at a low resolution, window by window.

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
    out, cache = np.empty((n_rows, n_columns, 3), dtype=np.uint8), ChunkCache(level)
    for rows in _parts(n_rows, BAND // step):
        for columns in _parts(n_columns, WIDTH // step):
            y, x = top + rows.start * step, left + columns.start * step
            window = cache.window(y, top + rows.stop * step, x, left + columns.stop * step)
            out[rows, columns] = _shrunk(window, step).transpose(1, 2, 0)
    covered = [left * dx, top * dy, (left + n_columns * step) * dx, (top + n_rows * step) * dy]
    return out, np.array(covered)


def _parts(n: int, most: int) -> list[slice]:
    most = max(1, most)
    return [slice(start, min(start + most, n)) for start in range(0, n, most)]


def _shrunk(window: Pixels, step: int) -> NDArray[np.floating]:
    """Return the rounded means of blocks of ``step × step`` pixels."""
    total = np.zeros((3, window.shape[1] // step, window.shape[2] // step), dtype=np.float32)
    for y in range(step):
        for x in range(step):
            total += window[:, y::step, x::step]
    return np.round(total / step**2)
