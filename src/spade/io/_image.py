"""Images of any size, read as the multiscale element that every reader returns."""

from __future__ import annotations

import struct
import threading
import uuid
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr

from spade.io._bytes import check_file

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Chunks of every level, (channel, y, x).
CHUNKS = (3, 512, 512)
TIFF_SUFFIXES = {".tif", ".tiff", ".btf", ".svs"}
#: Images are halved until their longer side has at most this many pixels.
SMALLEST = 1024


def read_image(path: Path, argument: str) -> xr.DataTree:
    """Read an RGB image as a multiscale element: TIFF lazily, other formats into memory.

    ``argument`` names the file in messages.
    """
    check_file(path, argument)
    if path.suffix.lower() in TIFF_SUFFIXES:
        return multiscale(tiff_levels(path, argument))
    return multiscale([da.from_array(level, chunks=CHUNKS, name=_name()) for level in _decode(path, argument)])


def multiscale(levels: Sequence[da.Array]) -> xr.DataTree:
    """Return a multiscale element of levels (3, height, width), finest first, with the identity to ``global``."""
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Identity, set_transformation

    _, height, width = levels[0].shape
    datasets = {}
    for i, level in enumerate(levels):
        coords = {
            "c": ["r", "g", "b"],
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


def tiff_levels(path: Path, argument: str) -> list[da.Array]:
    """Return the levels of a pyramidal TIFF, finest first; tiles are read and decoded on demand.

    If the file has one level only, coarser ones are computed from it on demand.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as tif:
            levels = [TiffLevel(path, *spec) for spec in _pyramid(tif, path, argument)]
    except (tifffile.TiffFileError, OSError, struct.error, IndexError, KeyError) as error:
        raise _unreadable(path, argument, error) from error
    arrays = [da.from_array(level, chunks=CHUNKS, name=_name(), lock=False, asarray=False) for level in levels]
    while len(levels) == 1 and max(arrays[-1].shape) > SMALLEST and min(arrays[-1].shape[1:]) > 1:
        arrays.append(_halve(arrays[-1]))
    return arrays


class TiffLevel:
    """One level of a TIFF as an array (3, height, width) that decodes tiles (or strips) on demand.

    It is thread-safe, and is pickled as the name of the file, so each process opens the file for itself.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, path: Path, page: tuple[int, ...], height: int, width: int) -> None:
        self.path = path
        self.page = page
        self.shape = (3, height, width)
        self._open: tuple[Any, Any] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "page": self.page, "shape": self.shape}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["page"], *state["shape"][1:])  # type: ignore[misc]

    def __getitem__(self, key: tuple[slice, slice, slice]) -> np.ndarray:
        channels, rows, columns = (slice(*k.indices(n)) for k, n in zip(key, self.shape, strict=True))
        out = np.zeros((rows.stop - rows.start, columns.stop - columns.start, 3), np.uint8)
        page, _ = self._page()
        height, width = page.chunks[:2]
        per_row = -(-self.shape[2] // width)
        for i in range(rows.start // height, -(-rows.stop // height)):
            for j in range(columns.start // width, -(-columns.stop // width)):
                tile = self._tile(i * per_row + j)
                if tile is None:
                    continue
                top, left = i * height, j * width
                y0, y1 = max(rows.start, top), min(rows.stop, top + tile.shape[0])
                x0, x1 = max(columns.start, left), min(columns.stop, left + tile.shape[1])
                out[y0 - rows.start : y1 - rows.start, x0 - columns.start : x1 - columns.start] = tile[
                    y0 - top : y1 - top, x0 - left : x1 - left, :3
                ]
        return np.ascontiguousarray(np.moveaxis(out, -1, 0)[channels])

    def _page(self) -> tuple[Any, Any]:
        """Return page and file, opened on first use."""
        import tifffile

        with self._lock:
            if self._open is None:
                tif = tifffile.TiffFile(self.path)
                self._open = (_page(tif, self.page), tif)
            return self._open

    def _tile(self, index: int) -> np.ndarray | None:
        """Return a decoded tile (height, width, channels); None if the file leaves it out."""
        page, tif = self._page()
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if count == 0:
            return None
        with self._lock:
            tif.filehandle.seek(offset)
            data = tif.filehandle.read(count)
        try:
            decoded = page.decode(data, index, jpegtables=page.jpegtables)[0]
        except (ValueError, RuntimeError) as error:
            raise OSError(f"{str(self.path)!r} is damaged: tile {index} of page {self.page} is unreadable.") from error
        return None if decoded is None else decoded[0]


def _pyramid(tif: Any, path: Path, argument: str) -> list[tuple[tuple[int, ...], int, int]]:
    """Return the pages of the pyramid as (place, height, width), checked against the length of the file."""
    if not len(tif.pages):
        raise _unreadable(path, argument, "it has no pages")
    first = tif.pages[0].aspage()
    pages: list[tuple[tuple[int, ...], Any]] = [((0,), first)]
    pages += [((0, i), sub.aspage()) for i, sub in enumerate(first.pages or ())]
    pages += [((i,), page.aspage()) for i, page in enumerate(tif.pages[1:], start=1) if page.aspage().is_reduced]
    levels: list[tuple[tuple[int, ...], int, int]] = []
    end = tif.filehandle.size
    for place, page in pages:
        if page.ndim != 3 or page.shape[2] not in (3, 4) or page.planarconfig != 1 or page.dtype != np.uint8:
            if place == (0,):
                raise ValueError(
                    f"{argument}: {str(path)!r} holds {page.shape} {page.dtype} ({page.axes}); expected an 8-bit RGB "
                    "image with interleaved channels. Convert it."
                )
            continue
        height, width = page.shape[:2]
        if levels and not (height < levels[-1][1] and abs(width / height * first.shape[0] / first.shape[1] - 1) < 0.05):
            continue  # a label or thumbnail with another aspect ratio
        if any(offset + count > end for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)):
            raise _unreadable(path, argument, f"its tiles reach beyond the end of the file at {end:,} bytes")
        levels.append((place, height, width))
    return levels


def _page(tif: Any, place: tuple[int, ...]) -> Any:
    page = tif.pages[place[0]].aspage()
    return page.pages[place[1]].aspage() if len(place) > 1 else page


def _halve(level: da.Array) -> da.Array:
    """Halve an image by averaging 2 × 2 pixels; an odd last row or column is left out."""
    even = level[:, : level.shape[1] // 2 * 2, : level.shape[2] // 2 * 2]
    mean = da.coarsen(np.mean, even, {1: 2, 2: 2})
    halved: da.Array = (mean + 0.5).astype(np.uint8).rechunk(CHUNKS)
    return halved


def _decode(path: Path, argument: str) -> list[np.ndarray]:
    """Return levels (3, height, width) of a JPEG, PNG or the like, each half the size of the one before."""
    from PIL import Image

    levels = []
    try:
        with warnings.catch_warnings():
            # slides are large; images of twice the limit remain an error
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(path)
            image.load()
        if image.mode != "RGB":
            image = image.convert("RGB")
        while True:
            levels.append(np.ascontiguousarray(np.moveaxis(np.asarray(image), -1, 0)))
            if max(image.size) <= SMALLEST:
                return levels
            image = image.reduce(2, box=(0, 0, image.width // 2 * 2, image.height // 2 * 2))
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{argument}: {str(path)!r} is too large to decode at once ({error}). Convert it to a tiled, pyramidal "
            "TIFF (vips tiffsave --tile --pyramid), which is read in pieces."
        ) from error
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise _unreadable(path, argument, error) from error


def _unreadable(path: Path, argument: str, why: object) -> ValueError:
    return ValueError(
        f"{argument}: {str(path)!r} cannot be read as an image ({why}). It is damaged, incomplete or of another "
        "format: compare its size with the source and download it again, or convert it to TIFF, PNG or JPEG."
    )


def _name() -> str:
    """Return a name for a dask array, so that its content is not hashed."""
    return f"spade-image-{uuid.uuid4().hex}"
