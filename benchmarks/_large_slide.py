"""A large slide in JPEG: real sections side by side on one glass, with pen marks and a fold, written strip by strip."""

from __future__ import annotations

import numpy as np
import tifffile
from _sections import read_tumour
from PIL import Image

#: Microns per pixel of the section, which the slide keeps.
MPP = 0.69
TILE, CELL = 256, 10_000
#: Every level is shrunk by this from the one before; there are three.
STEP = 4
GLASS = (238, 234, 240)
INK = (40, 70, 170)
#: Start on the left border (share of the side) and slope of two strokes of a pen and of a fold, and how they change
#: the 256 values of each channel: ink lets a share pass, and a fold has twice the optical density.
_VALUES = np.arange(256)[:, None]
MARKS = (
    (0.1, 0.6, _VALUES * INK / np.array(GLASS)),
    (0.9, -0.3, _VALUES * INK / np.array(GLASS)),
    (0.3, 0.02, _VALUES * np.minimum(_VALUES / np.array(GLASS), 1)),
)


def section(data, name="B4"):
    """Pixels of a real section."""
    return read_tumour(data / "her2st", name)["image"]["scale0"]["image"].transpose("y", "x", "c").to_numpy()


def write_slide(path, pixels, side, *, pyramid=True):
    """Write a square slide with copies of a section, turned and mirrored; only strips and coarse levels are held."""
    side = side // STEP**2 * STEP**2
    coarse = np.empty((side // STEP, side // STEP, 3), np.uint8)
    tiles = (
        np.ascontiguousarray(strip[:, x : x + TILE])
        for strip in _strips(pixels, side, coarse)
        for x in range(0, side, TILE)
    )
    options = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    scale = {"resolution": (10_000 / MPP,) * 2, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(tiles, shape=(side, side, 3), dtype=np.uint8, **scale, **options)
        for level in (coarse, _shrunk(coarse)) if pyramid else ():
            file.write(level, subfiletype=1, **options)
    return path


def _shrunk(pixels):
    return np.asarray(Image.fromarray(pixels).reduce(STEP))


def _strips(pixels, side, coarse):
    """Yield the rows of the slide, a row of tiles at a time, and fill the next level with their means."""
    noise = np.random.default_rng(0).normal(0, 2, (TILE, side, 3))
    glass = np.clip(np.array(GLASS) + noise, 0, 255).astype(np.uint8)
    top, left = ((n - min(n, side)) // 2 for n in pixels.shape[:2])
    pixels = pixels[top : top + side, left : left + side]  # a small slide shows the middle of a section
    turns = pixels, pixels[::-1], pixels[:, ::-1], pixels[::-1, ::-1]
    cells = [(y, x) for y in range(0, side, CELL) for x in range(0, side, CELL)]
    for top in range(0, side, TILE):
        strip = glass[: min(TILE, side - top)].copy()
        for number, (y, x) in enumerate(cells):
            piece = turns[number % 4][: min(CELL, side - y), : min(CELL, side - x)]
            first, last = max(top, y), min(top + len(strip), y + len(piece))
            if first < last:
                strip[first - top : last - top, x : x + piece.shape[1]] = piece[first - y : last - y]
        for start, slope, passing in MARKS:
            _mark(strip, top, side * start, slope, min(side // 100, 300), np.rint(passing).astype(np.uint8))
        coarse[top // STEP : (top + len(strip)) // STEP] = _shrunk(strip)
        yield strip


def _mark(strip, top, start, slope, width, passing):
    """Draw a stroke from the left border to the right one; ``passing`` is what becomes of each value of a channel."""
    y = top + np.arange(len(strip))[:, None]
    for left in range(0, strip.shape[1], TILE):
        part = strip[:, left : left + TILE]
        where = np.abs(y - start - slope * (left + np.arange(part.shape[1]))) < width
        if where.any():
            part[where] = passing[part[where], [0, 1, 2]]
