"""Values of patches as images that are painted when they are read."""

from __future__ import annotations

import uuid
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from spade.core.patches.heatmap import SquareRaster
from spade.io._images.multiscale import CHUNKS, SMALLEST


class Painted:
    """An image (channels, height, width) of squares in the colours or numbers of their rows.

    ``values`` are ``(n + 1, channels)``, those of every square and, last, of pixels without one.
    """

    ndim = 3

    def __init__(self, raster: SquareRaster, values: NDArray[Any]) -> None:
        self.raster, self.values = raster, values
        self.shape, self.dtype = (values.shape[1], *raster.shape), values.dtype

    def __getitem__(self, key: tuple[slice, slice, slice]) -> NDArray[Any]:
        rows, columns = (slice(*one.indices(n)[:2]) for one, n in zip(key[1:], self.raster.shape, strict=True))
        return np.ascontiguousarray(np.moveaxis(self.values[self.raster.region(rows, columns)], -1, 0)[key[0]])


def painted_levels(raster: SquareRaster, values: NDArray[Any]) -> list[da.Array]:
    """Return the levels of an image of squares, finest first, each half the size of the one before.

    The raster grows at its right and lower border until all levels cover the same area.
    """
    n_levels = 1 + max(0, int(np.ceil(np.log2(max(raster.shape) / SMALLEST))))
    factor = 2 ** (n_levels - 1)
    height, width = (-(-side // factor) for side in raster.shape)
    levels = []
    for power in range(n_levels):
        shape = height * factor >> power, width * factor >> power
        level = SquareRaster(raster.centres, raster.side, raster.origin, raster.pixel * 2**power, shape)
        name, empty = f"spade-painted-{uuid.uuid4().hex}", np.empty((0, 0, 0), values.dtype)
        painted: Any = Painted(level, values)
        levels.append(da.from_array(painted, chunks=CHUNKS, name=name, lock=False, asarray=False, meta=empty))
    return levels
