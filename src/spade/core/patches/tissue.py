"""Tissue on a slide seen from afar, told by colour from glass, dust, pen marks and folds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spade.core.checks import check_flag, check_not_negative
from spade.core.patches.tiles import Pixels

Mask = NDArray[np.bool_]
Image = NDArray[np.float32]
#: Resolution of the picture in which tissue is looked for, in µm/px.
RESOLUTION_UM = 8.0
#: Window over which colour is averaged, and half of the gaps that are closed.
WINDOW_UM, CLOSING_UM = 56.0, 48.0
#: Glass has no more colour than this (natural logarithm of its brightest over its darkest channel), and is that bright.
NEUTRAL, BRIGHT = 0.1, 100
#: A picture with less glass than this share is taken for tissue alone, on white glass.
LEAST_GLASS = 0.005
#: Colour above which differences do not count: pale tissue is then as far from glass as it is from dark tissue.
MOST_COLOUR = 0.3
#: Range of the threshold: noise of glass lies below, pale tissue above.
THRESHOLDS = (0.04, 0.15)
#: Pen marks smaller than this are none.
LEAST_PEN_MM2 = 0.02
#: A fold is at least this many times as dense as nine tenths of the tissue are at most.
FOLD = 1.4


@dataclass(frozen=True)
class TissueSettings:
    """What counts as tissue.

    Attributes
    ----------
    min_area_mm2
        Smaller pieces are left out.
    max_hole_mm2
        Smaller holes are filled.
    drop_pen
        Whether pen marks are cut out.
    drop_folds
        Whether folds are cut out.
    """

    min_area_mm2: float = 0.05
    max_hole_mm2: float = 0.05
    drop_pen: bool = True
    drop_folds: bool = False

    def __post_init__(self) -> None:
        """Check all settings."""
        for name in ("min_area_mm2", "max_hole_mm2"):
            object.__setattr__(self, name, check_not_negative(name, getattr(self, name), "mm²"))
        for name in ("drop_pen", "drop_folds"):
            object.__setattr__(self, name, check_flag(name, getattr(self, name)))


def find_tissue(picture: Pixels, um_per_px: float, settings: TissueSettings) -> Mask:
    """Return which pixels of a picture show tissue stained with H&E.

    Both stains absorb green most. The signal of a pixel is the optical density of green above that of red or blue, the
    smaller one, relative to the glass: its mean in a window plus its deviation there, so that a net of fat counts and
    an even smear of stain counts less. It is thresholded by Otsu's method, within :data:`THRESHOLDS`. Grey things, as
    dust, bubbles and printed frames, have no such signal.

    Parameters
    ----------
    picture
        ``(height, width, 3)``.
    um_per_px
        Resolution of the picture, about :data:`RESOLUTION_UM`.
    settings
        What counts as tissue.
    """
    density = optical_density(picture, glass_colour(picture))
    window = max(1, round(WINDOW_UM / um_per_px)) | 1
    px_per_mm2 = (1000 / um_per_px) ** 2
    pen = np.zeros(picture.shape[:2], dtype=bool)
    if settings.drop_pen:
        pen = _pen(density, window, LEAST_PEN_MM2 * px_per_mm2)
    signal = _signal(density, window)
    tissue = (signal > np.clip(otsu(signal[~pen]), *THRESHOLDS)) & ~pen
    tissue = _closed(tissue, max(1, round(CLOSING_UM / um_per_px)))
    tissue = _large(tissue, settings.min_area_mm2 * px_per_mm2)
    tissue = ~_large(~tissue, settings.max_hole_mm2 * px_per_mm2)
    if settings.drop_folds and tissue.any():
        grey = ndimage.uniform_filter(density.mean(0), window)
        tissue &= grey < FOLD * np.percentile(grey[tissue], 90)
    return _large(tissue & ~pen, settings.min_area_mm2 * px_per_mm2)


def glass_colour(picture: Pixels) -> Image:
    """Return the colour of the glass: that of the most frequent brightness of pixels with little colour; else white."""
    darkest, brightest = (channel(picture, axis=2).astype(np.int16) for channel in (np.min, np.max))
    glass = (darkest >= BRIGHT) & (brightest + 1 <= (darkest + 1) * np.exp(NEUTRAL))
    if glass.mean() < LEAST_GLASS:
        return np.full(3, 255, dtype=np.float32)
    counts = np.convolve(np.bincount(darkest[glass], minlength=256), np.ones(5), "same")
    near = glass & (np.abs(darkest - np.argmax(counts)) <= 3)
    return np.median(picture[near], axis=0).astype(np.float32)


def optical_density(picture: Pixels, glass: Image) -> Image:
    """Return the optical density (natural logarithm) of every channel, ``(3, height, width)``."""
    tables = -np.log(np.maximum(np.arange(256), 1)[None] / np.maximum(glass, 1)[:, None]).astype(np.float32)
    return np.stack([table[picture[:, :, channel]] for channel, table in enumerate(tables)])


def otsu(values: NDArray[np.floating], n_bins: int = 256) -> float:
    """Return the threshold that parts values into the two groups with the largest variance between them."""
    top = float(values.max(initial=0))
    if not top > 0:
        return 0.0
    counts = np.bincount(np.minimum(values * (n_bins / top), n_bins - 1).astype(np.uint8), minlength=n_bins)
    centres = (np.arange(n_bins) + 0.5) * top / n_bins
    below, sums = np.cumsum(counts)[:-1].astype(float), np.cumsum(counts * centres)[:-1]
    n, total = counts.sum(), (counts * centres).sum()
    between = (total * below - n * sums) ** 2 / np.maximum(below * (n - below), 1)
    return float(centres[np.argmax(between)])


def _signal(density: Image, window: int) -> Image:
    """Return mean plus deviation of the colour of H&E in a window around every pixel."""
    colour = np.clip(density[1] - np.minimum(density[0], density[2]), 0, MOST_COLOUR)
    mean = ndimage.uniform_filter(colour, window)
    return mean + np.sqrt(np.maximum(ndimage.uniform_filter(colour**2, window) - mean**2, 0))


def _pen(density: Image, window: int, least: float) -> Mask:
    """Return pen marks and their soft border.

    Tissue absorbs green most. Blue and green ink absorb red more, black ink absorbs all colours alike, and red ink
    absorbs green and blue, far more than blood does at this resolution.
    """
    red, green, blue = density
    densest, thinnest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    ink = (red > 1.15 * green + 0.05) & (red > 0.3)
    ink |= (thinnest > 0.8 * densest) & (densest > 0.7)
    ink |= (green > 1.5) & (red < 0.25 * green) & (blue > 0.65 * green)
    # the median filter: what is ink in most of a small window
    ink = ndimage.uniform_filter(ink.astype(np.float32), max(3, window // 2) | 1) > 0.5
    return np.asarray(ndimage.maximum_filter(_large(ink, least), 2 * window + 1))


def _closed(mask: Mask, radius: int) -> Mask:
    """Close gaps up to twice the radius."""
    size = 2 * radius + 1
    return np.asarray(ndimage.minimum_filter(ndimage.maximum_filter(mask, size), size))


def _large(mask: Mask, least: float) -> Mask:
    """Return the pieces of at least so many pixels; pixels that touch at a corner alone are of different pieces."""
    pieces = ndimage.label(mask)[0]
    sizes = np.bincount(pieces.ravel())
    keep = sizes >= least
    keep[0] = False
    return np.asarray(keep[pieces])
