"""Which library reads which slide, and whether it shows stained tissue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spade.io._bytes import check_file
from spade.io._files.damaged import DamagedFileError
from spade.io._images.colours import Pixels, not_stained
from spade.io._images.levels import LazyLevel
from spade.io._images.overview import coarsest, overview
from spade.io._slides.facts import Slide, check_levels
from spade.io._slides.plain_tiff import APERIO, PLAIN, check_bits, open_tiff, tiff_vendor
from spade.io._slides.scanner import INSTALL, SUFFIXES, import_openslide, open_scanned, openslide_vendor


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
    level = levels[coarsest([one.shape[1:] for one in levels])]
    return overview(level.shape[1:], level.chunks[1:], level.tile, level.region)
