"""HEST's own files of patches: images of 112 µm, barcodes and corners, under the names that they have had."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade._checks import plural, shorten
from spade.core.arrays import Floats
from spade.core.spots.blocks import spacing
from spade.io._files.hdf5 import open_hdf5

#: Names of the datasets.
IMAGES, BARCODES, COORDS = ("img", "imgs"), ("barcode", "barcodes"), "coords"
#: Side of a patch in µm.
SIDE_UM = 112.0


class HestPatches(NamedTuple):
    """The dataset of patches of a file, their barcodes, corners (x, y) in the slide if it has them, and side in px."""

    images: str
    barcodes: pd.Index
    corners: NDArray[np.float64] | None
    side: int


def read_hest_patches(path: Path, sample: str) -> HestPatches:
    """Return what a file says of its patches, which stay on the disk; raise if they do not fit each other."""
    source = f"{sample}: {str(path)!r}"
    with open_hdf5(path, sample, texts=True) as file:
        images, barcodes = (next((key for key in keys if key in file), None) for keys in (IMAGES, BARCODES))
        if images is None or barcodes is None:
            raise ValueError(f"{source} has {shorten(file) or 'nothing'}; expected img, barcode and coords.")
        img, raw = file[images], np.asarray(file[barcodes][:]).ravel()
        names = pd.Index([value.decode() if isinstance(value, bytes) else str(value) for value in raw], dtype=object)
        corners = np.asarray(file[COORDS][:], dtype=np.float64) if COORDS in file else None
        if img.ndim != 4 or img.shape[-1] != 3 or img.shape[1] != img.shape[2] or img.dtype != np.uint8 or not len(img):
            raise ValueError(f"{source}: {images} is {img.dtype} {img.shape}; expected uint8 (n, side, side, 3).")
        if len(names) != len(img) or (corners is not None and corners.shape != (len(img), 2)):
            raise ValueError(
                f"{source} has {plural(len(img), 'patch')}, but {len(names)} barcodes and coords of shape "
                f"{None if corners is None else corners.shape}. Compare its size with the source and download it again."
            )
        if not names.is_unique:
            raise ValueError(
                f"{source}: barcodes of patches occur more than once, such as {shorten(names[names.duplicated()], 3)}."
            )
        return HestPatches(images, names, corners, int(img.shape[1]))


def check_places(spots: Floats, corners: Floats, source: str) -> None:
    """Raise unless patches lie where their spots lie, apart from a common shift."""
    if len(spots) < 3:
        return
    shift = spots - corners
    off = np.abs(shift - np.median(shift, axis=0)).max(1) > max(spacing(spots) / 2, 1)
    if off.any():
        raise ValueError(
            f"{source}: {int(off.sum())} of {plural(len(off), 'patch')} lie more than half the distance between spots "
            "away from the spot of the same barcode (coords of the patches, obsm['spatial'] of the spots). Do both "
            "files belong to one sample?"
        )
