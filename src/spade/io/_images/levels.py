"""Levels of pictures in files, as arrays that read regions on demand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spade.core.arrays import Rows
from spade.io._images.colours import Pixels

#: Side of a chunk in pixels, about; it holds whole tiles of its file.
CHUNK = 512
#: The sides of a level may differ from those of the slide, shrunk evenly, by this many pixels or this share.
ROUNDING_PX, ROUNDING = 2, 0.01


class LazyLevel:
    """One level of a picture in a file as an array (3 or 4, height, width) that reads regions on demand.

    Levels are thread-safe, and are pickled as the name of the file, so each process opens the file for itself. What
    reads a region is the ``region`` of the kinds of levels.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3
    path: Path
    shape: tuple[int, int, int]
    #: Height and width of what the file decodes at once.
    tile: tuple[int, int]

    def region(self, rows: slice, columns: slice) -> Pixels:
        """Return the pixels of a region that lies inside the level, (height, width, channels)."""
        raise NotImplementedError

    def __getitem__(self, key: tuple[slice | int | Rows, ...]) -> Pixels:
        channels, *sides = key
        (rows, row_key), (columns, column_key) = map(_span, sides, self.shape[1:])
        read = np.moveaxis(self.region(rows, columns), -1, 0)
        return np.asarray(read[..., column_key][:, row_key][channels], order="C")

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Shape of chunks that hold whole tiles, (channels, height, width); strips make wide and low ones."""
        width = _multiple(self.tile[1], CHUNK, self.shape[2])
        height = _multiple(self.tile[0], CHUNK * CHUNK // max(width, CHUNK), self.shape[1])
        return self.shape[0], height, width


def _multiple(side: int, about: int, most: int) -> int:
    """Return the multiple of a side, at least one, that is nearest to a length; no more than the level has."""
    return min(max(round(about / side), 1) * side, most)


def _span(key: slice | int | Rows, n: int) -> tuple[slice, slice | Rows]:
    """Return the whole part of an axis that an index lies in, and the index within this part."""
    if isinstance(key, slice) and key.step in (None, 1):
        start, stop, _ = key.indices(n)
        return slice(start, max(start, stop)), slice(None)
    chosen = np.arange(n)[key]
    start = int(chosen.min(initial=n))
    return slice(start, int(chosen.max(initial=start - 1)) + 1), chosen - start


def same_view(shape: tuple[int, ...], finest: tuple[int, ...]) -> bool:
    """Return whether a picture (height, width) can be the finest one, shrunk evenly."""
    shrink = max(finest[0] / shape[0], finest[1] / shape[1])
    return all(
        abs(side - full / shrink) <= max(ROUNDING_PX, ROUNDING * side)
        for side, full in zip(shape[:2], finest[:2], strict=True)
    )
