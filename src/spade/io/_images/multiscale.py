"""Images of any size, read as the multiscale element that every reader returns."""

from __future__ import annotations

import uuid
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
import xarray as xr

from spade.io._bytes import check_file
from spade.io._files.damaged import DamagedFileError, reading
from spade.io._images.colours import Pixels, flattened
from spade.io._images.levels import LazyLevel
from spade.io._images.tiff import TIFF_SUFFIXES, tiff_levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

#: Chunks of every level, (channel, y, x).
CHUNKS = (-1, 512, 512)
#: How the names of lazy arrays begin.
NAME = "spade-image-"
#: Images are halved until their longer side has at most this many pixels.
SMALLEST = 1024
#: Rows of an image that are laid on white at a time.
ROWS = 512
#: Modes of Pillow that say what colour a pixel has. Grey of 16 bits has no white, and ink no fixed colour.
COLOUR_MODES = ("1", "L", "P", "RGB", "LA", "PA", "RGBA")


def read_image(path: Path, argument: str) -> xr.DataTree:
    """Read an RGB image as a multiscale element: TIFF lazily, other formats into memory.

    An image with transparency is laid on white, and its fourth channel ``"a"`` says which pixels are not wholly
    transparent (255, else 0). ``argument`` names the file in messages.
    """
    check_file(path, argument)
    if path.suffix.lower() not in TIFF_SUFFIXES:
        return multiscale([lazy(level) for level in _decode(path, argument)])
    levels = [lazy(level) for level in tiff_levels(path, argument)]
    return multiscale(with_coarser(levels[0]) if len(levels) == 1 else levels)


def multiscale(levels: Sequence[da.Array], channels: Sequence[str] = "rgba") -> xr.DataTree:
    """Return a multiscale element of levels (channel, height, width), finest first, with the identity to ``global``."""
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Identity, set_transformation

    n_channels, height, width = levels[0].shape
    datasets = {}
    for i, level in enumerate(levels):
        coords = {
            "c": [*channels][:n_channels],
            "y": (np.arange(level.shape[1]) + 0.5) * (height / level.shape[1]),
            "x": (np.arange(level.shape[2]) + 0.5) * (width / level.shape[2]),
        }
        datasets[f"scale{i}"] = xr.Dataset({"image": xr.DataArray(level, dims=("c", "y", "x"), coords=coords)})
    tree = xr.DataTree.from_dict(datasets)
    set_transformation(tree, {"global": Identity()}, set_all=True)
    Image2DModel().validate(tree)
    return tree


def size(image: xr.DataTree) -> tuple[int, int]:
    """Return width and height of the finest level."""
    sizes = image["scale0"].sizes
    return sizes["x"], sizes["y"]


def lazy(level: Pixels | LazyLevel, chunks: tuple[int, int, int] = CHUNKS) -> da.Array:
    """Return a level as a dask array whose name is not a hash of its content; a chunk reads only its own region."""
    name = f"{NAME}{uuid.uuid4().hex}"
    if isinstance(level, np.ndarray):
        return da.from_array(level, chunks=chunks, name=name)
    empty = np.empty((0, 0, 0), np.uint8)
    return da.from_array(level, chunks=chunks, name=name, lock=False, asarray=False, meta=empty)


def source(array: object) -> object:
    """Return what :func:`lazy` made an array from; None of an array that is changed, or made otherwise."""
    if not isinstance(array, da.Array) or not array.name.startswith(NAME):
        return None
    key = f"original-{array.name}"
    return array.dask.layers[key][key] if key in array.dask.layers else None


def with_coarser(level: da.Array) -> list[da.Array]:
    """Return a level and coarser ones, each half the size of the one before, that are made from it on demand."""
    levels = [level]
    while max(levels[-1].shape[1:]) > SMALLEST and min(levels[-1].shape[1:]) > 1:
        levels.append(halve(levels[-1]))
    return levels


def halve(level: da.Array) -> da.Array:
    """Halve a picture by averaging 2 × 2 pixels; an odd last row or column is left out."""
    even = level[:, : level.shape[1] // 2 * 2, : level.shape[2] // 2 * 2]
    mean = da.coarsen(np.mean, even[:3], {1: 2, 2: 2})
    halved: da.Array = (mean + 0.5).astype(np.uint8)
    if len(level) > 3:
        halved = da.concatenate([halved, da.coarsen(np.max, even[3:], {1: 2, 2: 2})])
    return halved.rechunk(CHUNKS)


def _decode(path: Path, argument: str) -> list[Pixels]:
    """Return levels (3 or 4, height, width) of a JPEG, PNG or the like, each half the size of the one before."""
    from PIL import Image

    try:
        with warnings.catch_warnings(), reading(path, "an image", argument):
            # slides are large; images of twice the limit remain an error
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                _check_mode(image, path, argument)
                image.load()
                finest = _channels(image)
    except DamagedFileError as error:
        if isinstance(error.__cause__, Image.DecompressionBombError):
            raise ValueError(
                f"{argument}: {str(path)!r} is too large to decode at once ({error.__cause__}). Convert it to a tiled, "
                "pyramidal TIFF (vips tiffsave --tile --pyramid), which is read in pieces."
            ) from error
        raise
    levels = [finest]
    while max(levels[-1].shape[:2]) > SMALLEST and min(levels[-1].shape[:2]) > 1:
        levels.append(_halved(levels[-1]))
    return [np.ascontiguousarray(np.moveaxis(level, -1, 0)) for level in levels]


def _check_mode(image: Image, path: Path, argument: str) -> None:
    """Raise if the colours of an image are not known from its pixels."""
    if image.mode not in COLOUR_MODES:
        raise DamagedFileError(
            f"{argument}: {str(path)!r} holds pixels of mode {image.mode!r}; expected an RGB image of 8 bits per "
            "channel. Convert it to RGB (grey of more than 8 bits needs a choice of white, CMYK a colour profile)."
        )


def _channels(image: Image) -> Pixels:
    """Return colours ``(h, w, 3)``, or with transparency ``(h, w, 4)`` as :func:`flattened` does."""
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        pixels = np.array(image.convert("RGBA"))
        if (pixels[..., 3] == 255).all():
            return pixels[..., :3]
        for start in range(0, len(pixels), ROWS):
            pixels[start : start + ROWS] = flattened(pixels[start : start + ROWS])
        return pixels
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _halved(level: Pixels) -> Pixels:
    """Halve pixels ``(h, w, c)`` by averaging 2 × 2 of them; an odd last row or column is left out."""
    from PIL import Image

    height, width = (n // 2 * 2 for n in level.shape[:2])
    mean = np.asarray(Image.fromarray(np.ascontiguousarray(level[..., :3])).reduce(2, box=(0, 0, width, height)))
    if level.shape[2] == 3:
        return mean
    shown = level[:height, :width, 3].reshape(height // 2, 2, width // 2, 2).max((1, 3))
    return np.concatenate([mean, shown[..., None]], axis=-1)
