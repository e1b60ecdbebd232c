"""Small slides as scanners and converters write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

#: Height and width that no factor divides.
HEIGHT, WIDTH = 1203, 1606
MPP = 0.5


def tissue(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Pixels (h, w, 3): pink and violet blobs on white glass."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (max(height // 40, 2), max(width // 40, 2))).astype(np.uint8)
    shade = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)) / 255
    white, pink, violet = (np.array(colour, float) for colour in ((244, 242, 245), (225, 150, 190), (110, 70, 150)))
    steps = np.clip(shade[..., None] * 2, 0, 1), np.clip(shade[..., None] * 2 - 1, 0, 1)
    return (white + (pink - white) * steps[0] + (violet - pink) * steps[1]).astype(np.uint8)


def shrunk(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Average squares of pixels; a rest is left out, as scanners do."""
    height, width = (n // factor for n in pixels.shape[:2])
    whole = pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    return whole.mean(axis=(1, 3)).astype(np.uint8)


def pyramid(pixels: np.ndarray | None = None, factors: Sequence[int] = (1, 4, 16)) -> list[np.ndarray]:
    """Levels of a slide, the finest first."""
    base = tissue() if pixels is None else pixels
    return [shrunk(base, factor) for factor in factors]


def aperio(pixels: np.ndarray, mpp: float | str | None = MPP, more: str = "") -> str:
    """The description that Aperio's scanners write."""
    size = f"{pixels.shape[1]}x{pixels.shape[0]}"
    scale = "" if mpp is None else f"|MPP = {mpp}"
    return (
        f"Aperio Image Library v11.2.1 \r\n{size} (240x240) JPEG/RGB Q=90|AppMag = 20|ScanScope ID = SS1{scale}{more}"
    )


def plain_slide(path: Path, levels: Sequence[np.ndarray] | None = None, *, subifds: bool = False, **first: Any) -> Path:
    """Write a pyramidal TIFF in JPEG at :data:`MPP` (resolution in cm), unless other options are given."""
    levels = pyramid() if levels is None else levels
    options: dict[str, Any] = {"tile": (240, 240), "photometric": "rgb", "metadata": None, "compression": "jpeg"}
    scale = {"resolution": (10_000 / MPP,) * 2, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tif:
        tif.write(levels[0], subifds=len(levels) - 1 if subifds else 0, **{**options, **scale, **first})
        for level in levels[1:]:
            tif.write(level, subfiletype=1, **options)
    return path


def aperio_slide(path: Path, levels: Sequence[np.ndarray] | None = None, mpp: float | str | None = MPP) -> Path:
    """Write an SVS: levels in tiles, a thumbnail behind the first, label and macro at the end, none of them marked."""
    levels = pyramid() if levels is None else levels
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None, "compression": "jpeg"}
    with tifffile.TiffWriter(path) as tif:
        for i, level in enumerate(levels):
            tif.write(level, tile=(240, 240), description=aperio(level, mpp), **options)
            if i == 0:
                tif.write(shrunk(level, 20), rowsperstrip=16, description=aperio(level, mpp), **options)
        for name, kind in (("label", 1), ("macro", 9)):
            other = np.full((40, 60, 3), 200, np.uint8)
            text = f"Aperio Image Library v11.2.1 \r\n{name} 60x40"
            tif.write(other, rowsperstrip=8, description=text, subfiletype=kind, **options)
    return path


#: Where the scanned part of a Leica slide lies, and the size of the whole, in pixels of the finest level.
LEFT, TOP, SLIDE_WIDTH, SLIDE_HEIGHT = 1000, 2000, 6000, 4000


def _leica_image(pages: dict[int, np.ndarray], view: Sequence[int], objective: float) -> str:
    """One scan of a Leica slide as XML; ``view`` has x, y, width and height in pixels."""
    sizes = {number: f'sizeX="{level.shape[1]}" sizeY="{level.shape[0]}"' for number, level in pages.items()}
    levels = "".join(f'<dimension ifd="{n}" r="{r}" {sizes[n]}/>' for r, n in enumerate(sizes))
    x, y, width, height = (round(side * MPP * 1000) for side in view)
    return (
        f'<image><device model="SCN400" version="1"/><pixels {next(iter(sizes.values()))}>{levels}</pixels>'
        f'<view offsetX="{x}" offsetY="{y}" sizeX="{width}" sizeY="{height}"/><scanSettings><objectiveSettings>'
        f"<objective>{objective}</objective></objectiveSettings><illuminationSettings><illuminationSource>brightfield"
        "</illuminationSource></illuminationSettings></scanSettings></image>"
    )


def leica_slide(path: Path) -> Path:
    """Write an SCN: a macro picture, and the levels of a part of the slide."""
    levels = pyramid()
    macro = tissue(200, 300)
    whole, part = (0, 0, SLIDE_WIDTH, SLIDE_HEIGHT), (LEFT, TOP, WIDTH, HEIGHT)
    images = _leica_image({0: macro}, whole, 0.6) + _leica_image(dict(enumerate(levels, start=1)), part, 20)
    width, height = (round(side * MPP * 1000) for side in whole[2:])
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="c" sizeX="{width}" sizeY="{height}"><barcode>x</barcode>{images}</collection></scn>'
    )
    options: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "metadata": None, "compression": "jpeg"}
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        tif.write(macro, description=xml, **options)
        for level in levels:
            per_cm = 10_000 / MPP * level.shape[1] / WIDTH
            tif.write(level, resolution=(per_cm, per_cm), resolutionunit="CENTIMETER", **options)
    return path


def page(path: Path, place: int) -> np.ndarray:
    """Pixels of a page of a TIFF, (3, h, w)."""
    return np.moveaxis(tifffile.imread(path, key=place), -1, 0)
