"""Images: which are RGB, and their resolutions as arrays and levels."""

from __future__ import annotations

from collections.abc import Callable

import dask.array as da
import numpy as np
import zarr
from numpy.typing import NDArray
from xarray import DataArray, DataTree

from spade._samples.lazy import LazyPixels, SharedResults
from spade.core.patches.tiles import Level


def image_arrays(element: DataArray | DataTree) -> list[DataArray]:
    """Return the resolutions of an image element, finest first."""
    if isinstance(element, DataArray):
        return [element]
    arrays = [next(iter(element[name].data_vars.values())) for name in element]
    return sorted(arrays, key=lambda array: -array.sizes["x"])


def is_rgb(element: DataArray | DataTree) -> bool:
    """Whether an image has three channels, or four whose last is alpha, of 8 bits."""
    array = image_arrays(element)[0]
    names = [str(name).lower() for name in array.coords["c"].values] if "c" in array.coords else []
    n = array.sizes["c"]
    return array.dtype == np.uint8 and (n == 3 or (n == 4 and (names in ([*"rgba"], [*"0123"]))))


def image_levels(element: DataArray | DataTree) -> list[Level]:
    """Return every resolution of an RGB image as a :class:`~spade.core.patches.tiles.Level`, finest first."""
    arrays = image_arrays(element)
    height, width = arrays[0].sizes["y"], arrays[0].sizes["x"]
    levels, results = [], SharedResults()
    for array in arrays:
        data = array.transpose("c", "y", "x").data
        source = _zarr_source(data)
        if source is not None:
            y_edges, x_edges = (
                np.append(np.arange(0, n, chunk), n)
                for n, chunk in zip(source.shape[1:], source.chunks[1:], strict=True)
            )
        else:
            chunked = da.asarray(data)
            y_edges, x_edges = (np.concatenate([[0], np.cumsum(sizes)]) for sizes in chunked.chunks[1:])
            data = LazyPixels(chunked, results)
        downsample = height / array.sizes["y"], width / array.sizes["x"]
        levels.append(Level(_reader(data if source is None else source), y_edges, x_edges, downsample))
    return levels


def _zarr_source(data: da.Array) -> zarr.Array | None:
    """Return the zarr array if a dask array only wraps one: reading from it directly is much faster."""
    if not isinstance(data, da.Array) or set(data.dask.layers) != {data.name, f"original-{data.name}"}:
        return None
    source = data.dask.layers[f"original-{data.name}"].get(f"original-{data.name}")
    return source if isinstance(source, zarr.Array) and source.shape == data.shape else None


def _reader(data: LazyPixels | zarr.Array) -> Callable[[int, int, int, int], NDArray[np.uint8]]:
    def read(y0: int, y1: int, x0: int, x1: int) -> NDArray[np.uint8]:
        return np.asarray(data[:3, y0:y1, x0:x1])

    return read
