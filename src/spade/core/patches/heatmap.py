"""Squares as a raster: which of them every pixel shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats
from spade.core.compiled import compiled

#: Squares are larger by this share when they are painted, so that rounding leaves no seams between neighbours.
SEAM = 1e-6
#: Centres lie on a grid if they are off by less than this share of a side.
ON_GRID = 1e-3
#: Share of a pixel by which a box may end beside one, as numbers are rounded.
ROUNDING = 1e-9


@dataclass(frozen=True)
class SquareRaster:
    """Squares on a raster of pixels; a region is painted when it is asked for.

    Attributes
    ----------
    centres
        ``(n, 2)`` as (x, y); rows with NaN are not painted.
    side
        Side of every square.
    origin
        Upper left corner (x, y) of the raster.
    pixel
        Side of a pixel.
    shape
        Height and width in pixels.
    """

    centres: Floats
    side: float
    origin: tuple[float, float]
    pixel: float
    shape: tuple[int, int]

    @property
    def end(self) -> tuple[float, float]:
        """Lower right corner (x, y)."""
        height, width = self.shape
        return self.origin[0] + width * self.pixel, self.origin[1] + height * self.pixel

    def region(self, rows: slice, columns: slice) -> NDArray[np.int32]:
        """Return the number of the square that each pixel shows, −1 for none: that with the nearest centre."""
        index = np.full((rows.stop - rows.start, columns.stop - columns.start), -1, dtype=np.int32)
        corner = np.array(self.origin) + self.pixel * np.array([columns.start, rows.start])
        local = np.ascontiguousarray((self.centres - corner) / self.pixel, dtype=np.float64)
        _paint(local, self.side / self.pixel / 2 * (1 + SEAM), np.full(index.shape, np.inf, np.float32), index)
        return index

    def whole(self) -> NDArray[np.int32]:
        """Return all of it, ``(height, width)``."""
        return self.region(slice(0, self.shape[0]), slice(0, self.shape[1]))


def raster_of(centres: Floats, side: float, box: Floats, max_px: int) -> SquareRaster:
    """Return the raster on which to draw squares within ``box`` (x0, y0, x1, y1).

    A grid of tiles without overlap that begins at 0 gets one pixel per tile, as long as these are no more than
    ``max_px`` along the longer side of the box; other squares get as many pixels as that.
    """
    finest = float(np.max(box[2:] - box[:2])) / max_px
    pixel = max(side, finest) if _on_grid(centres, side) else finest
    first = np.floor(box[:2] / pixel + ROUNDING)
    n_columns, n_rows = (np.ceil(box[2:] / pixel - ROUNDING) - first).astype(int).tolist()
    return SquareRaster(centres, side, (float(first[0]) * pixel, float(first[1]) * pixel), pixel, (n_rows, n_columns))


def _on_grid(centres: Floats, side: float) -> bool:
    places = centres[np.isfinite(centres).all(1)] / side - 0.5
    return bool((np.abs(places - np.round(places)) < ON_GRID).all())


@compiled()
def _paint(centres, half, distance, index):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Paint squares; a pixel belongs to a square if its centre lies in it. All lengths are in pixels."""
    height, width = index.shape
    for k in range(len(centres)):
        x, y = centres[k, 0], centres[k, 1]
        if not (x + half > 0 and y + half > 0 and x - half < width and y - half < height):  # off, or NaN
            continue
        left, right = max(0, int(np.ceil(x - half - 0.5))), min(width, int(np.ceil(x + half - 0.5)))
        top, bottom = max(0, int(np.ceil(y - half - 0.5))), min(height, int(np.ceil(y + half - 0.5)))
        for i in range(top, bottom):
            for j in range(left, right):
                d = np.float32(max(abs(i + 0.5 - y), abs(j + 0.5 - x)))
                if d < distance[i, j]:
                    distance[i, j] = d
                    index[i, j] = k
