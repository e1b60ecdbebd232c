"""HEST's own patches of a sample as a picture, in place of a slide that was not downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade._checks import plural, shorten
from spade.core.arrays import Floats
from spade.core.errors import warn
from spade.io._files.damaged import reading
from spade.io._files.hest_patches import SIDE_UM, check_places, read_hest_patches
from spade.io._images.colours import Pixels
from spade.io._images.levels import LazyLevel
from spade.io._images.multiscale import lazy, multiscale, with_coarser

if TYPE_CHECKING:
    from xarray import DataTree

#: What lies between patches.
WHITE = 255


class PatchLevel(LazyLevel):
    """A white picture on which the patches of a file lie; of two that overlap, the later one is on top.

    Parameters
    ----------
    path, key
        The file, and its dataset of patches ``(n, side, side, 3)``.
    corners
        Upper left corner (row, column) of every patch, ``(n, 2)``.
    side
        Side of a patch in pixels.
    size
        Height and width of the picture.
    """

    def __init__(self, path: Path, key: str, corners: NDArray[np.int64], side: int, size: tuple[int, int]) -> None:
        self.path, self.key, self.corners, self.side = path, key, corners, side
        self.shape, self.tile = (3, *size), (side, side)

    def region(self, rows: slice, columns: slice) -> Pixels:
        """Return the pixels of a region, (height, width, 3)."""
        low, high = np.array([rows.start, columns.start]), np.array([rows.stop, columns.stop])
        pixels = np.full((*(high - low), 3), WHITE, dtype=np.uint8)
        hit = np.flatnonzero(((self.corners < high) & (self.corners + self.side > low)).all(1))
        if not len(hit):
            return pixels
        with reading(self.path, "HDF5"), h5py.File(self.path, "r") as file:
            for number in hit:
                corner = self.corners[number]
                (y0, x0), (y1, x1) = np.maximum(corner, low), np.minimum(corner + self.side, high)
                top, left = corner
                patch = file[self.key][number, y0 - top : y1 - top, x0 - left : x1 - left]
                pixels[y0 - low[0] : y1 - low[0], x0 - low[1] : x1 - low[1]] = patch
        return pixels


def spots_with_patch(path: Path, barcodes: pd.Index, sample: str) -> NDArray[np.bool_]:
    """Return which spots have a patch in a file; the others are warned of."""
    found = read_hest_patches(path, sample).barcodes
    kept = barcodes.isin(found)
    if not kept.any():
        raise ValueError(
            f"{sample}: no spot of st/{sample}.h5ad has a patch in {str(path)!r}: barcodes there are such as "
            f"{shorten(found, 3)}. Do both files belong to one sample?"
        )
    if n_without := int((~kept).sum()):
        warn(
            f"{sample}: {n_without} of {plural(len(kept), 'spot')} have no patch in {path.name!r}, as off the tissue, "
            "and are left out. With the slide, wsis/, all have one."
        )
    return kept


def patch_picture(path: Path, barcodes: pd.Index, centres: Floats, mpp: float, sample: str) -> tuple[DataTree, float]:
    """Return patches laid out around their spots as a picture, and its µm/px.

    Parameters
    ----------
    path
        The file of patches.
    barcodes, centres
        Spots, and their centres (x, y) in pixels of the slide, ``(n, 2)``; each has a patch.
    mpp
        µm/px of the slide. Its pixels are the coordinate system ``"global"`` of the picture.
    sample
        Name for messages.
    """
    from spatialdata.transformations import Scale, set_transformation

    key, found, coords, side = read_hest_patches(path, sample)
    spot = barcodes.get_indexer(found)
    if (spot < 0).any():
        raise ValueError(
            f"{sample}: {int((spot < 0).sum())} of {plural(len(spot), 'patch')} in {str(path)!r} have no spot, such as "
            f"{shorten(found[spot < 0], 3)}. Do both files belong to one sample?"
        )
    placed = np.asarray(centres, dtype=np.float64)[spot]
    if coords is not None:
        check_places(placed, coords, f"{sample}: {str(path)!r}")
    picture_mpp = SIDE_UM / side
    shrink = picture_mpp / mpp
    corners = np.rint(placed[:, ::-1] / shrink - side / 2).astype(np.int64)
    height, width = (int(n) for n in corners.max(0) + side)
    picture = multiscale(with_coarser(lazy(PatchLevel(path, key, corners, side, (height, width)))))
    set_transformation(picture, {"global": Scale([shrink, shrink], axes=("x", "y"))}, set_all=True)
    return picture, picture_mpp
