"""Images that are given as arrays, elements or files."""

from __future__ import annotations

from os import PathLike
from typing import Any

import dask.array as da
import numpy as np
from xarray import DataArray, DataTree

from spade._checks import shorten
from spade.core.checks import check_path
from spade.io._images.colours import WHITE, Pixels, flattened
from spade.io._images.multiscale import lazy, multiscale, read_image, with_coarser
from spade.io._recorded.frames import image_arrays
from spade.io._slides.opening import open_slide

#: Files that are read as pictures; all others as slides.
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".btf")
EXPECTED = "an array (height, width, 3 or 4), an image element (c, y, x), or a path"


def as_slide(image: object, argument: str) -> tuple[DataTree, dict[str, Any]]:
    """Return an image as :func:`as_picture` does, and what the file of a slide states about itself."""
    if isinstance(image, (str, PathLike)) and (path := check_path(argument, image)).suffix.lower() not in PICTURES:
        slide = open_slide(path, None)
        return multiscale([lazy(level, level.chunks) for level in slide.levels]), slide.record(path)
    return as_picture(image, argument), {}


def as_picture(image: object, argument: str) -> DataTree:
    """Return an image as a multiscale element in its own pixels; files and dask arrays are read when they are needed.

    Arrays of floats hold shares of white, 0 to 1, as matplotlib reads a PNG.
    """
    if isinstance(image, (str, PathLike)):
        path = check_path(argument, image)
        return read_image(path, argument) if path.suffix.lower() in PICTURES else as_slide(path, argument)[0]
    if isinstance(image, (DataArray, DataTree)):
        levels = [_level(array, argument) for array in image_arrays(image)]
        return multiscale(with_coarser(levels[0]) if len(levels) == 1 else levels)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"{argument}: got {type(image).__name__}; expected {EXPECTED}.")
    pixels = _bytes(image, argument)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or not pixels.size:
        raise ValueError(f"{argument}: got an array of shape {pixels.shape}; expected {EXPECTED}.")
    if pixels.shape[2] == 4:
        pixels = flattened(pixels)
        pixels = pixels[..., :3] if (pixels[..., 3] == WHITE).all() else pixels
    return multiscale(with_coarser(lazy(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)))))


def _level(array: DataArray, argument: str) -> da.Array:
    """Return the colours of one level of an element."""
    if set(array.dims) != {"c", "y", "x"} or array.sizes["c"] not in (3, 4) or array.dtype != np.uint8:
        raise ValueError(
            f"{argument}: got an element with dimensions {shorten(array.dims)}, {array.sizes.get('c', 0)} channels of "
            f"{array.dtype}; expected c, y, x with 3 or 4 channels of uint8."
        )
    data = array.transpose("c", "y", "x").data
    return data if isinstance(data, da.Array) else lazy(np.asarray(data))


def _bytes(image: np.ndarray[Any, Any], argument: str) -> Pixels:
    """Return pixels of 8 bits; floats are shares of white."""
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind != "f" or not image.size or not (image.min() >= 0 and image.max() <= 1):
        within = f" from {image.min():g} to {image.max():g}" if image.size and image.dtype.kind in "iuf" else ""
        raise ValueError(
            f"{argument}: got an array of {image.dtype}{within}; expected uint8, or floats from 0 to 1. Convert it, so "
            "that its white is 255."
        )
    return np.asarray(np.round(image * WHITE), dtype=np.uint8)
