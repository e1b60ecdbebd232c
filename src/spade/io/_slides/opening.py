"""Which library reads which slide, and whether it shows stained tissue."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from spade.io._bytes import check_file
from spade.io._files.damaged import DamagedFileError
from spade.io._images.colours import Pixels, not_stained
from spade.io._images.levels import LazyLevel
from spade.io._slides.facts import Slide, check_levels
from spade.io._slides.plain_tiff import APERIO, PLAIN, check_bits, open_tiff, tiff_vendor
from spade.io._slides.scanner import INSTALL, SUFFIXES, import_openslide, open_scanned, openslide_vendor

#: Colours are looked at on the coarsest level with at least this longer side, in windows if it has more pixels.
OVERVIEW, MOST_PIXELS = 512, 2**22
WINDOWS, WINDOW = 8, 64


def open_slide(path: Path, backend: str | None) -> Slide:
    """Return a slide and what it states about itself, through the library that its format asks for."""
    if path.is_dir():
        raise FileNotFoundError(
            f"path={str(path)!r} is a folder; give the file of the slide (of DICOM, one of its .dcm files)."
        )
    check_file(path, "path")
    vendor = tiff_vendor(path)
    if backend == "tifffile" and vendor not in (PLAIN, APERIO):
        kind = f"a TIFF of {vendor}" if vendor else "no TIFF"
        raise ValueError(
            f"backend='tifffile': {str(path)!r} is {kind}, but tifffile reads plain TIFF and Aperio SVS in JPEG; leave "
            "backend= out."
        )
    if vendor in (PLAIN, APERIO) and backend != "openslide":
        slide = open_tiff(path, vendor)
    else:
        slide = _through_openslide(path, is_tiff=bool(vendor))
    check_levels(path, slide.levels)
    if why := not_stained(_overview(slide.levels)):
        raise DamagedFileError(
            f"path={str(path)!r} is not a picture of stained tissue in bright light, such as H&E ({why})."
        )
    return slide


def _through_openslide(path: Path, *, is_tiff: bool) -> Slide:
    if is_tiff:
        check_bits(path)
    if is_tiff or path.suffix.lower() in SUFFIXES:
        import_openslide(path)
    try:
        vendor, also = openslide_vendor(path), ""
    except ImportError:
        vendor, also = "", f"; OpenSlide, which knows more, is not installed ({INSTALL})"
    if not vendor:
        raise DamagedFileError(
            f"path={str(path)!r} is not a slide: it is neither a pyramidal TIFF nor in a format of a scanner, or it is "
            f"incomplete (an .mrxs needs its folder beside it){also}."
        )
    return open_scanned(path)


def _overview(levels: Sequence[LazyLevel]) -> Pixels:
    """Return pixels (n, 3) from all over a slide; pieces that are damaged are left out, unless all are."""
    level = next((one for one in reversed(levels) if max(one.shape[1:]) >= OVERVIEW), levels[0])
    sizes = level.shape[1:]
    whole = sizes[0] * sizes[1] <= MOST_PIXELS
    sides = level.chunks[1:] if whole else level.tile
    found, failure = [], None
    for rows, columns in product(*(_pieces(n, side, whole=whole) for n, side in zip(sizes, sides, strict=True))):
        try:
            piece = level.region(rows, columns)
        except DamagedFileError as error:
            failure = error
        else:
            thinned = tuple(slice(None, None, max(1, side // OVERVIEW)) for side in piece.shape[:2])
            found.append(piece[thinned][..., :3].reshape(-1, 3))
    if failure is not None and not found:
        raise failure
    return np.concatenate(found)


def _pieces(n: int, side: int, *, whole: bool) -> list[slice]:
    """Return all pieces of an axis, or, of one with many tiles, windows that lie in different ones.

    So no tile is decoded twice.
    """
    starts = range(0, n, side)
    if whole or len(starts) <= WINDOWS:
        return [slice(start, min(start + side, n)) for start in starts]
    chosen = (starts[i] for i in np.linspace(0, len(starts) - 1, WINDOWS).astype(int))
    return [slice(start, min(start + side, start + WINDOW, n)) for start in chosen]
