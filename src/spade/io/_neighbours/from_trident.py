"""Slides with the patches and features of a file of TRIDENT or CLAM."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from spade import _keys
from spade._checks import plural, shorten
from spade.core.checks import check_path, check_positive, is_number
from spade.io._bytes import check_file
from spade.io._feature_files import (
    COORDS,
    FEATURES,
    SUFFIXES,
    FeatureFile,
    is_feature_file,
    named_encoder,
    read_whole_file,
)
from spade.io._neighbours.opened import check_options, opened, settled_mpp
from spade.io._neighbours.tiles import Tiles, put_features, settle_size, tiled_slide
from spade.io._recorded.frames import image_size
from spade.io._recorded.scale import recorded_mpp, section_record
from spade.io._wsi import read_wsi

if TYPE_CHECKING:
    from spatialdata import SpatialData

logger = logging.getLogger("spade")
FUNCTION = "io.from_trident"
#: TRIDENT rounds the side of a patch down to whole pixels.
ROUNDED_PX = 1.0
#: Downsamplings along x and y differ by less than this share, by the rounding of levels to whole pixels.
EVEN = 0.005


def from_trident(
    slide: SpatialData | str | PathLike[str],
    features: str | PathLike[str],
    *,
    patch_size_level0: float | None = None,
    mpp: float | None = None,
    size_um: float | None = None,
    key_added: str | None = None,
    sample_id: str | None = None,
    image_key: str = "he",
) -> SpatialData:
    """Lay the patches of a feature file of TRIDENT or CLAM on their slide, as :func:`spade.pp.tiles` makes tiles.

    A feature file alone is a sample without places. With its slide it has heatmaps, outlines for QuPath, neighbours and
    all else that needs tiles.

    Parameters
    ----------
    slide
        File of the slide, read lazily as :func:`read_wsi` does; or the ``SpatialData`` that this returned, or a path to
        a store of it. The object is not changed.
    features
        File with ``features``, ``(n, d)`` or ``(1, n, d)``, and ``coords``, ``(n, 2)``: the upper left corner (x, y) of
        every patch in pixels of the slide at its finest level.
    patch_size_level0
        Side of a patch in pixels of the slide at its finest level. None: what the attributes of ``coords`` say, see
        Notes. Feature files of CLAM do not say it: it is ``patch_size`` times the downsampling of ``patch_level``, both
        of which are in CLAM's file of coordinates.
    mpp
        Microns per pixel of the finest level. None: what the file of the slide states, or was recorded.
    size_um
        Side of a patch in µm, within 5 % of the one measured; state it so that it is the same for all slides, such as
        128 for 256 pixels at 20×. None: what is measured.
    key_added
        ``obsm`` key of the features. None: ``"X_<encoder>"`` with the encoder that the file names, such as
        ``"X_uni_v1"``, or ``"X_features"`` if it names none.
    sample_id
        Name of the sample. None: that of the slide. State the name that is in the feature file if that of the slide is
        another.
    image_key
        Name of the image element.

    Returns
    -------
    SpatialData
        Image ``image_key``; ``shapes["tiles"]``; and ``tables["tiles_table"]`` of width 0 with the features,
        float32 ``(n, d)``, in ``obsm``, ``obs["tile_id"]`` (rows of the file) and ``obs["spade_valid"]``. Encoder and
        size are in ``uns["spade"]``; µm/px, and what the file of the slide states, in ``attrs``. Nothing else of an
        object is taken over.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    KeyError
        If the file has no features or no coordinates, or the object has no such image.
    ValueError
        If the size of the patches is not known, or given otherwise than the file says; patches lie off the slide; the
        file was made of a slide of another name or size, or of other features by this package; coordinates and features
        differ in number; or µm/px are not known or contradict each other.

    Warns
    -----
    UserWarning
        If centres of patches lie off the slide, at its right or lower edge; these get NaN features.

    Notes
    -----
    The side of a patch is ``patch_size_level0``; or ``patch_size`` × ``level0_magnification`` ÷
    ``target_magnification``; or ``patch_size`` × ``downsample`` (× ``custom_downsample``), where ``patch_level`` 0
    counts as a downsampling of 1. Coordinates of files that CLAM's early ``create_patches.py`` wrote are pixels of a
    coarser level and lie wrong.

    As with feature files, a model warns of patches that differ from those of its training by more than a quarter, and
    refuses half as much again; those of 224 pixels at 20× are the 112 µm of :func:`spade.pp.patches`.

    Examples
    --------
    A slide at 20,000 pixels per cm, and a file of two patches:

    >>> import pathlib, tempfile
    >>> import h5py, numpy, tifffile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> pixels = numpy.random.default_rng(0).integers(90, 255, (600, 800, 3)).astype("uint8")
    >>> scale = {"resolution": (20_000, 20_000), "resolutionunit": "centimeter"}
    >>> tifffile.imwrite(folder / "a.tif", pixels, tile=(256, 256), photometric="rgb", metadata=None, **scale)
    >>> with h5py.File(folder / "a.h5", "w") as file:
    ...     file["features"], file["coords"] = numpy.eye(2, 8), [[0, 0], [224, 0]]
    ...     file["coords"].attrs["patch_size_level0"] = 224

    >>> import spade as sp
    >>> sdata = sp.io.from_trident(folder / "a.tif", folder / "a.h5")
    >>> sdata["tiles_table"].obsm["spatial"].tolist(), sdata["tiles_table"].obsm["X_features"].shape
    ([[112.0, 112.0], [336.0, 112.0]], (2, 8))
    """
    check_options(mpp=mpp, size_um=size_um, sample_id=sample_id, image_key=image_key)
    if patch_size_level0 is not None:
        patch_size_level0 = check_positive("patch_size_level0", patch_size_level0, "pixels of the slide")
    if key_added is not None:
        _keys.check_key(key_added)
    given = check_path("slide", slide) if isinstance(slide, (str, PathLike)) else slide
    path = check_path("features", features)
    check_file(path, "features")
    if not is_feature_file(path):
        raise ValueError(f"features={str(path)!r} is no feature file; expected one that ends in {', '.join(SUFFIXES)}.")
    content = read_whole_file(path)
    source = _slide(given, mpp, sample_id, image_key)
    record = section_record(source)
    file = record.get("slides", {}).get(image_key, {})
    image, size_px = source.images[image_key], image_size(source.images[image_key])
    _check_file(content, path, {sample_id, record.get("sample"), file.get("file")}, size_px)
    tiles = _tiles(content, path, patch_size_level0, size_px)
    scale = settled_mpp(mpp, recorded_mpp(source, image_key), f"images[{image_key!r}]")
    size = settle_size(tiles, scale, size_um)
    sample = sample_id or record.get("sample")
    sdata = tiled_slide(
        image_key, image, tiles, mpp=scale, size_um=size, features={}, tissue=None, function=FUNCTION, sample=sample,
        slide=file,
    )  # fmt: skip
    encoder = named_encoder(content)
    key = key_added or _keys.features(encoder or FEATURES)
    table = sdata.tables[_keys.tile_table(_keys.TILES)]
    put_features(table, key, content.features, function=FUNCTION, encoder=encoder, about_um=size)
    logger.info("%s: took over %s with obsm[%r]", path.name, plural(len(tiles.ids), "patch"), key)
    return sdata


def _slide(slide: object, mpp: float | None, sample_id: str | None, image_key: str) -> SpatialData:
    """Return the slide as an object that has the image."""
    if isinstance(slide, Path) and slide.suffix.lower() != ".zarr":
        return read_wsi(slide, mpp=mpp, sample_id=sample_id, image_key=image_key)
    source = opened(slide, "slide")
    if image_key not in source.images:
        raise KeyError(f"image_key={image_key!r} is not there; images: {shorten(source.images) or 'none'}.")
    return source


def _check_file(content: FeatureFile, path: Path, names: set[str | None], size: tuple[int, int]) -> None:
    """Raise if a feature file has no coordinates, or is not of a slide with one of these names and this size."""
    if content.facts:
        raise ValueError(
            f"features={str(path)!r} holds what sp.{content.facts.get('function')} wrote. Give the file of the "
            "encoder, and call the function on the result."
        )
    if content.coords is None:
        raise KeyError(
            f"features={str(path)!r} has no {COORDS!r}, the corners of its patches, so that it is not known where they "
            "lie. Give the .h5 file."
        )
    attributes = content.attributes.get(COORDS, {})
    named = attributes.get("name") or content.attributes.get(FEATURES, {}).get("name")
    known = {name for name in names if name} | {Path(name).stem for name in names if name}
    if isinstance(named, str) and known and named not in known:
        raise ValueError(
            f"features={str(path)!r} was made of a slide called {named!r}, but this one is {shorten(sorted(known))}. "
            f"Give the file of this slide; if it is the same slide under another name, pass sample_id={named!r}."
        )
    stated = [attributes.get(f"level0_{name}") for name in ("width", "height")]
    if all(map(is_number, stated)) and tuple(map(int, stated)) != size:  # type: ignore[arg-type]
        raise ValueError(
            f"features={str(path)!r} was made of a slide of {stated[0]} × {stated[1]} pixels, but the image has "
            f"{size[0]} × {size[1]}. Give the same slide at its finest level, uncropped."
        )


def _tiles(content: FeatureFile, path: Path, given: float | None, size: tuple[int, int]) -> Tiles:
    """Return the patches of a file; raise if one lies off the slide."""
    attributes = content.attributes.get(COORDS, {})
    side = _side(attributes, path, given)
    corners = np.asarray(content.coords)
    if corners.dtype.kind not in "iuf" or not np.isfinite(corners).all():
        raise ValueError(f"features={str(path)!r}: {COORDS!r} are no finite numbers. Encode the slide again.")
    corners = corners.astype(np.float64)
    off = ((corners + side <= 0) | (corners >= size)).any(axis=1)
    if off.any():
        raise ValueError(
            f"features={str(path)!r}: {int(off.sum())} of {len(corners)} patches lie off the slide of {size[0]} × "
            f"{size[1]} pixels, such as one at {tuple(corners[off][0].tolist())}. Is it the file of this slide, with "
            "corners in pixels of its finest level?"
        )
    px, overlap = attributes.get("patch_size"), attributes.get("overlap")
    whole = float(px) if is_number(px) and float(px) > 0 else side  # type: ignore[arg-type]
    return Tiles(
        np.hstack([corners, corners + side]),
        pd.RangeIndex(len(corners)),
        pd.DataFrame(index=pd.RangeIndex(len(corners))),
        size_px=round(whole),
        overlap=float(overlap) / whole if is_number(overlap) else 0.0,  # type: ignore[arg-type]
    )


def _side(attributes: Mapping[str, Any], path: Path, given: float | None) -> float:
    """Return the side of a patch in pixels of the finest level: the one given, else what the file says."""
    stated = _stated_side(attributes)
    if given is None and stated is None:
        raise ValueError(
            f"features={str(path)!r} does not say how large its patches are (attributes of {COORDS!r}: "
            f"{shorten(attributes) or 'none'}). Give patch_size_level0=, the side of a patch in pixels of the slide at "
            "its finest level."
        )
    if given is not None and stated is not None and abs(given - stated) > ROUNDED_PX:
        raise ValueError(
            f"patch_size_level0={given:g}, but {str(path)!r} says {stated:g} pixels of the finest level. Leave it out."
        )
    return float(given if given is not None else stated)  # type: ignore[arg-type]


def _stated_side(attributes: Mapping[str, Any]) -> float | None:
    """Return the side of a patch in pixels of the finest level that a file states, None if it does not."""

    def number(name: str) -> float | None:
        value = np.ravel(attributes.get(name, np.nan))  # CLAM has the downsampling along x and y
        same = len(value) and value.dtype.kind in "iuf" and np.ptp(value) <= EVEN * value[0]
        return float(value[0]) if same and value[0] > 0 else None

    if (whole := number("patch_size_level0")) is not None:
        return whole
    side, finest, target = map(number, ("patch_size", "level0_magnification", "target_magnification"))
    if side is None:
        return None
    if finest is not None and target is not None:
        return side * finest / target
    down = number("downsample") or (1.0 if attributes.get("patch_level") == 0 else None)
    return None if down is None else side * down * (number("custom_downsample") or 1.0)
