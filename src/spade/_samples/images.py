"""Images: which are RGB, and their resolutions as arrays and levels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import dask.array as da
import numpy as np
import zarr
from numpy.typing import NDArray
from xarray import DataArray, DataTree

from spade._checks import shorten
from spade._samples.lazy import LazyPixels, SharedResults
from spade.core.arrays import Floats
from spade.core.errors import warn
from spade.core.patches.tiles import Level, show_anything
from spade.io._files.damaged import reading
from spade.io._images.channels import channel_names, rgb_channels
from spade.io._images.colours import not_stained, on_white
from spade.io._images.levels import LazyLevel
from spade.io._images.overview import coarsest, overview
from spade.io._recorded.frames import image_arrays, image_size


def is_rgb(element: DataArray | DataTree) -> bool:
    """Whether an image has 8 bits and channels named red, green and blue, or unnamed, with or without opacity.

    Channels of other names, such as stains, are not colours, however many there are.
    """
    array = image_arrays(element)[0]
    return bool(array.dtype == np.uint8 and rgb_channels(array))


def describe(element: DataArray | DataTree) -> str:
    """Say what an image holds, for messages."""
    array = image_arrays(element)[0]
    return f"{array.sizes['c']} channels of {array.dtype}, named {shorten(channel_names(array))}"


def image_levels(element: DataArray | DataTree) -> list[Level]:
    """Return every resolution of an RGB image as a :class:`~spade.core.patches.tiles.Level`, finest first.

    An image with opacity is laid on white.
    """
    width, height = image_size(element)
    shared = SharedResults()
    return [
        _level(array, (height / array.sizes["y"], width / array.sizes["x"]), shared) for array in image_arrays(element)
    ]


def check_stained(image: DataArray | DataTree, image_key: str, sample: str, *, named: bool) -> None:
    """Raise if an image is dark or grey, as fluorescence is; warn if it is named, since then it is meant."""
    levels = image_levels(image)
    level = levels[coarsest([one.shape for one in levels])]
    side = (int(level.y_edges[1]), int(level.x_edges[1]))

    def read(rows: slice, columns: slice) -> NDArray[np.uint8]:
        return np.moveaxis(level.read(rows.start, rows.stop, columns.start, columns.stop), 0, -1)

    if not (why := not_stained(overview(level.shape, side, side, read))):
        return
    said = f"{sample}: images[{image_key!r}] is not a picture of stained tissue in bright light, such as H&E ({why})."
    if not named:
        raise ValueError(f"{said} Add the H&E image, and name it with image_key=; naming this one takes it as it is.")
    warn(f"{said} It is taken as image_key= names it, but the encoders were trained on H&E.")


def visible(
    levels: list[Level], centres: Floats, inside: NDArray[np.bool_], px_per_patch: float, n_px: int
) -> NDArray[np.bool_]:
    """Return which patches show anything: the centre (x, y) lies inside the image, and not all is transparent."""
    shown = inside.copy()
    shown[inside] = show_anything(levels, centres[inside][:, ::-1], px_per_patch, n_px)
    return shown


def _level(array: DataArray, downsample: tuple[float, float], shared: SharedResults) -> Level:
    data = array.transpose("c", "y", "x").data
    source = _source(data)
    if isinstance(source, zarr.Array):
        y_edges, x_edges = (
            np.append(np.arange(0, n, chunk), n) for n, chunk in zip(source.shape[1:], source.chunks[1:], strict=True)
        )
    else:
        chunked = da.asarray(data)
        y_edges, x_edges = (np.concatenate([[0], np.cumsum(sizes)]) for sizes in chunked.chunks[1:])
    window = _reader(LazyPixels(chunked, shared) if source is None else source)
    channels = rgb_channels(array) or [0, 1, 2]

    def read(y0: int, y1: int, x0: int, x1: int) -> NDArray[np.uint8]:
        pixels = window(y0, y1, x0, x1)
        if len(channels) == 3:
            return pixels[:3] if channels == [0, 1, 2] else pixels[channels]
        laid = on_white(np.moveaxis(pixels[channels[:3]], 0, -1), pixels[channels[3]])
        return np.ascontiguousarray(np.moveaxis(laid, -1, 0))

    def opacity(y0: int, y1: int, x0: int, x1: int) -> NDArray[np.uint8]:
        return window(y0, y1, x0, x1)[channels[3]]

    return Level(read, y_edges, x_edges, downsample, opacity if len(channels) == 4 else None)


def _reader(data: LazyPixels | LazyLevel | zarr.Array) -> Callable[[int, int, int, int], NDArray[np.uint8]]:
    """Return a function that reads all channels of a window; errors name the store."""
    if isinstance(data, LazyLevel):  # as the file has them, colour by colour: a copy in another order takes long
        return lambda y0, y1, x0, x1: np.moveaxis(data.region(slice(y0, y1), slice(x0, x1)), -1, 0)
    place = Path(str(data.store_path).removeprefix("file://")) if isinstance(data, zarr.Array) else None

    def read(y0: int, y1: int, x0: int, x1: int) -> NDArray[np.uint8]:
        with nullcontext() if place is None else reading(place, "an image"):
            return np.asarray(data[:, y0:y1, x0:x1])

    return read


def _source(data: da.Array) -> zarr.Array | LazyLevel | None:
    """Return the array in a file if a dask array only wraps one: reading from it directly is much faster."""
    if not isinstance(data, da.Array) or set(data.dask.layers) != {data.name, f"original-{data.name}"}:
        return None
    source = data.dask.layers[f"original-{data.name}"].get(f"original-{data.name}")
    return source if isinstance(source, (zarr.Array, LazyLevel)) and source.shape == data.shape else None
