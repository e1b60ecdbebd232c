"""Images as pyramidal OME-TIFF."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from spade._checks import shorten
from spade.core.checks import check_flag, check_path, check_positive, check_text
from spade.core.files import write_atomically
from spade.core.spots.lattice import TOLERANCE
from spade.io._images.channels import channel_names, rgb_channels
from spade.io._images.colours import on_white
from spade.io._images.multiscale import SMALLEST, halve
from spade.io._recorded.frames import image_arrays
from spade.io._recorded.scale import recorded_mpp

if TYPE_CHECKING:
    from spatialdata import SpatialData
    from xarray import DataArray

#: Side of a tile, and most columns that are read at once.
TILE, WIDTH = 512, 16_384
#: Bytes of pixels above which a file gets 64-bit addresses.
BIG = 2**31
SUFFIXES = (".tif", ".tiff", ".btf")


def write_ome_tiff(
    sdata: SpatialData, image_key: str, path: str | Path, *, mpp: float | None = None, overwrite: bool = False
) -> None:
    """Write an image as a pyramidal OME-TIFF with its size in µm, as QuPath and other viewers open it.

    The file is complete or not there at all. Memory holds a few tiles, whatever the size of the image.

    Parameters
    ----------
    sdata
        Object with the image.
    image_key
        Image, such as one that :func:`spade.tl.score_image` wrote. Colours of 8 bits (channels ``r``, ``g``, ``b``,
        with or without ``a``) become an RGB file; what is transparent is laid on white, because viewers take a fourth
        channel for a stain. All other images keep their type of numbers, NaN too, with one plane per channel.
    path
        File to write, ending in ``.ome.tif`` or another ending of TIFF. Missing folders are made.
    mpp
        Microns per pixel at the finest level; None: what was recorded when the image was read or made.
    overwrite
        Whether to replace a file at ``path``.

    Raises
    ------
    FileExistsError
        If something is at ``path`` and may not be replaced.
    KeyError
        If there is no such image.
    ValueError
        If the µm/px are not known, ``mpp`` contradicts what was recorded by more than 5 %, or ``path`` has another
        ending.

    Notes
    -----
    The levels are those of the image. If its coarsest one has more than 1,024 pixels along a side, further ones are
    made: colours are averaged over 2 × 2 pixels, of other numbers every second one is taken, so that no value is
    invented. Compression is lossless (Deflate, in tiles of 512 pixels). The file has the pixels and µm/px of the image,
    not its transformations. It shows the whole image: a slide that QuPath opens cropped to its bounds (MRXS, SCN and
    others) does not coincide with it, and outlines for it are those of
    ``sp.io.write_annotations(…, in_bounds=False)``.

    Examples
    --------
    >>> import tempfile
    >>> import spade as sp
    >>> (sdata,) = sp.datasets.toy(1, 30)
    >>> sp.pp.tissue(sdata)
    >>> sp.pp.tiles(sdata)
    >>> sp.tl.score_image(sdata, "tissue_share", table_key="tiles")
    >>> path = tempfile.mkdtemp() + "/share.ome.tif"
    >>> sp.io.write_ome_tiff(sdata, "tissue_share", path)
    """
    file = check_path("path", path)
    if not file.name.lower().endswith(SUFFIXES):
        raise ValueError(f"path={str(path)!r}: expected a name that ends in .ome.tif.")
    if check_text("image_key", image_key) not in sdata.images:
        raise KeyError(f"image_key={image_key!r} is not there; images: {shorten(sdata.images) or 'none'}.")
    if not check_flag("overwrite", overwrite) and file.exists():
        raise FileExistsError(f"path={str(path)!r} exists. Pass overwrite=True to replace it, or choose another path.")
    mpp = _scale(sdata, image_key, mpp)
    levels = image_arrays(sdata.images[image_key])
    planes = _planes(levels)
    file.parent.mkdir(parents=True, exist_ok=True)
    names = None if rgb_channels(levels[0]) and levels[0].dtype == np.uint8 else channel_names(levels[0])
    write_atomically(file, lambda part: _write(part, planes, names, mpp, image_key))


def _scale(sdata: SpatialData, image_key: str, mpp: float | None) -> float:
    known = recorded_mpp(sdata, image_key)
    if mpp is None:
        if known is None:
            raise ValueError(f"the microns per pixel of images[{image_key!r}] are not known: pass mpp=.")
        return known
    mpp = check_positive("mpp", mpp, "microns per pixel")
    if known is not None and abs(mpp / known - 1) > TOLERANCE:
        raise ValueError(f"mpp={mpp:.4g} contradicts the {known:.4g} µm/px recorded for images[{image_key!r}].")
    return mpp


def _planes(levels: list[DataArray]) -> list[da.Array]:
    """Return the levels as they are written, (channel, height, width), and further ones down to a small one."""
    colours = rgb_channels(levels[0]) if levels[0].dtype == np.uint8 else []
    arrays = [da.asarray(level.transpose("c", "y", "x").data) for level in levels]
    if colours:
        arrays = [array if colours == [*range(len(array))] else array[colours] for array in arrays]
    while max(arrays[-1].shape[1:]) > SMALLEST and min(arrays[-1].shape[1:]) > 1:
        arrays.append(halve(arrays[-1]) if colours else arrays[-1][:, ::2, ::2])
    return arrays


def _write(path: Path, levels: list[da.Array], names: list[str] | None, mpp: float, image_key: str) -> None:
    """Write levels; ``names`` are those of the channels, None for colours."""
    import tifffile

    facts: dict[str, Any] = {
        "axes": "YXS" if names is None else "CYX",
        "Name": image_key,
        **{f"PhysicalSize{axis}": mpp for axis in "XY"},
        **{f"PhysicalSize{axis}Unit": "µm" for axis in "XY"},
    }
    if names is not None:
        facts["Channel"] = {"Name": names}
    options: dict[str, Any] = {
        "tile": (TILE, TILE),
        "photometric": "rgb" if names is None else "minisblack",
        "compression": "zlib",
        "dtype": levels[0].dtype,
    }
    n_bytes = sum(level.size for level in levels) * levels[0].dtype.itemsize
    n_tiles = sum(_n_tiles(level, names) for level in levels)
    with (
        tifffile.TiffWriter(path, ome=True, bigtiff=n_bytes > BIG) as tif,
        tqdm(total=n_tiles, desc=f"writing {image_key}", unit="tile") as bar,
    ):
        for place, level in enumerate(levels):
            more: dict[str, Any] = {"subfiletype": 1} if place else {"subifds": len(levels) - 1, "metadata": facts}
            shape = (*level.shape[1:], 3) if names is None else level.shape
            per_cm = 1e4 / mpp * level.shape[2] / levels[0].shape[2]
            tif.write(
                _tiles(level, names is None, bar), shape=shape, resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER", **options, **more,
            )  # fmt: skip


def _n_tiles(level: da.Array, names: list[str] | None) -> int:
    return int(np.prod([-(-side // TILE) for side in level.shape[1:]])) * (1 if names is None else len(level))


def _tiles(level: da.Array, colours: bool, bar: Any) -> Iterator[NDArray[Any]]:  # noqa: FBT001
    """Yield whole tiles, plane by plane, (height, width) or (height, width, 3); the last ones are filled up."""
    for plane in [level] if colours else [level[i : i + 1] for i in range(len(level))]:
        for y in range(0, level.shape[1], TILE):
            for x in range(0, level.shape[2], WIDTH):
                pixels = np.moveaxis(np.asarray(plane[:, y : y + TILE, x : x + WIDTH]), 0, -1)
                if colours and pixels.shape[-1] == 4:
                    pixels = on_white(pixels[..., :3], pixels[..., 3])
                for left in range(0, pixels.shape[1], TILE):
                    tile = pixels[:, left : left + TILE]
                    short = [(0, TILE - side) for side in tile.shape[:2]]
                    filled = np.pad(tile, [*short, (0, 0)], mode="edge")
                    bar.update()
                    yield np.ascontiguousarray(filled if colours else filled[..., 0])
