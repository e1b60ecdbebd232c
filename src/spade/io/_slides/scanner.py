"""Slides that OpenSlide reads: formats of scanners, region by region."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from spade.io._files.damaged import DamagedFileError, reading
from spade.io._images.colours import WHITE, Pixels, on_white
from spade.io._images.levels import CHUNK, LazyLevel
from spade.io._slides.facts import Slide

#: Properties that name a scanner, by format; the first that is there.
SCANNER = (
    "aperio.ScanScope ID",
    "hamamatsu.Product",
    "leica.device-model",
    "ventana.ScannerModel",
    "philips.DICOM_MANUFACTURERS_MODEL_NAME",
    "dicom.ManufacturerModelName",
    "tiff.Model",
)
INSTALL = "pip install openslide-python openslide-bin"
#: Files that OpenSlide alone reads, and are no TIFF.
SUFFIXES = (".mrxs", ".dcm", ".vms", ".vmu", ".svslide", ".czi")


def import_openslide(path: Path) -> Any:
    """Return the library, or raise with how to install it for this file."""
    try:
        import openslide
    except (ImportError, OSError) as error:  # the second if its shared library is missing
        raise ImportError(
            f"path={str(path)!r} is read through OpenSlide, which is not installed: "
            f"{INSTALL} (the extra wsi of spade-st)."
        ) from error
    return openslide


class Handle:
    """An open slide that its levels share: opened at first use, in every process for itself, and closed with them.

    OpenSlide may be called by many threads at once. A process that was forked opens the file anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._open: tuple[int, Any] | None = None

    def __reduce__(self) -> tuple[type[Handle], tuple[Path]]:
        return Handle, (self.path,)

    def slide(self) -> Any:
        """Return the open slide."""
        with self._lock:
            if self._open is None or self._open[0] != os.getpid():
                self._open = (os.getpid(), import_openslide(self.path).OpenSlide(self.path))
            return self._open[1]

    def drop(self, slide: Any) -> None:
        """Forget a slide that had an error, after which OpenSlide reads nothing more from it."""
        with self._lock:
            if self._open is not None and self._open[1] is slide:
                self._open = None


class OpenSlideLevel(LazyLevel):
    """One level of a slide as an array (3, height, width); what the scanner left out is white."""

    def __init__(
        self, handle: Handle, level: int, shape: tuple[int, int, int], tile: tuple[int, int], downsample: float
    ) -> None:
        self.handle, self.level, self.shape, self.tile, self.downsample = handle, level, shape, tile, downsample
        self.path = handle.path

    def region(self, rows: slice, columns: slice) -> Pixels:
        """Return the pixels of a region, (height, width, 3)."""
        width, height = columns.stop - columns.start, rows.stop - rows.start
        if not width or not height:
            return np.empty((height, width, 3), np.uint8)
        at = round(columns.start * self.downsample), round(rows.start * self.downsample)
        what = f"a slide: the region of {width} × {height} pixels at x={columns.start}, y={rows.start} of level "
        with reading(self.path, f"{what}{self.level} is damaged", "path"):
            pixels = self._read(at, (width, height))
        alpha = pixels[..., 3]
        return pixels[..., :3] if alpha.min() == WHITE else on_white(pixels[..., :3], alpha)

    def _read(self, at: tuple[int, int], size: tuple[int, int]) -> Pixels:
        """Return pixels (height, width, 4); after an error, which may be that of another region, once more."""
        failed = import_openslide(self.path).OpenSlideError
        slide = self.handle.slide()
        try:
            return np.asarray(slide.read_region(at, self.level, size))
        except failed:
            self.handle.drop(slide)
        slide = self.handle.slide()
        try:
            return np.asarray(slide.read_region(at, self.level, size))
        except failed:
            self.handle.drop(slide)
            raise


def openslide_vendor(path: Path) -> str:
    """Return the name that OpenSlide has for the format of a file, empty if it knows none."""
    openslide = import_openslide(path)
    with reading(path, "a slide", "path"):
        return openslide.OpenSlide.detect_format(path) or ""


def open_scanned(path: Path) -> Slide:
    """Return a slide that OpenSlide reads."""
    handle = Handle(path)
    with reading(path, "a slide", "path"):
        slide = handle.slide()
    said = slide.properties
    levels = [
        OpenSlideLevel(handle, i, (3, height, width), _tile(said, i), slide.level_downsamples[i])
        for i, (width, height) in enumerate(slide.level_dimensions)
    ]
    if min(levels[0].shape) < 1:
        raise DamagedFileError(f"path={str(path)!r} is a slide without pixels.")
    sizes = [said.get(f"openslide.mpp-{axis}") for axis in "xy"]
    bounds = [said.get(f"openslide.bounds-{name}") for name in ("x", "y", "width", "height")]
    return Slide(
        levels,
        "openslide",
        said.get("openslide.vendor", ""),
        [("OpenSlide's mpp-x and mpp-y", *sizes)] if sizes != [None, None] else [],
        said.get("openslide.objective-power"),
        next((said[key] for key in SCANNER if key in said), ""),
        sorted(slide.associated_images),
        [int(value) for value in bounds] if None not in bounds else [],
    )


def _tile(said: Any, level: int) -> tuple[int, int]:
    """Return height and width of the tiles of a level, as far as they are known."""
    sides = (said.get(f"openslide.level[{level}].tile-{name}") for name in ("height", "width"))
    height, width = (int(side) if side is not None else CHUNK for side in sides)
    return height, width
