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
#: Window over which colour is averaged, half of the gaps that are closed, and by how much the signal exceeds tissue.
WINDOW_UM, CLOSING_UM, MARGIN_UM = 56.0, 48.0, 16.0
#: Glass has no more colour than this (natural logarithm of its brightest over its darkest channel), and is that bright.
NEUTRAL, BRIGHT = 0.1, 100
#: Every how many pixels the colour of the glass is looked for, and rows of pixels that are worked on at a time.
SPARSE, BAND = 4, 256
#: A picture with less glass than this share is taken for tissue alone, on white glass.
LEAST_GLASS = 0.005
#: Colour above which differences do not count: pale tissue is then as far from glass as it is from dark tissue.
MOST_COLOUR = 0.3
#: Range of the threshold: noise of glass lies below, pale tissue above.
THRESHOLDS = (0.04, 0.15)
#: Least mean and deviation of pale tissue below the threshold; a smear of stain has the mean and not the deviation.
PALE = (0.06, 0.018)
#: Density of green, and of red or blue, that no tissue exceeds; the dark ground of fluorescence does.
DARKEST = (3.0, 1.8)
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
    an even smear of stain counts less. It is thresholded by Otsu's method, within :data:`THRESHOLDS`; below it, what is
    uneven is pale tissue (:data:`PALE`). Grey things, as dust, bubbles and printed frames, have no such signal.

    Parameters
    ----------
    picture
        ``(height, width, 3)``.
    um_per_px
        Resolution of the picture, about :data:`RESOLUTION_UM`.
    settings
        What counts as tissue.
    """
    colour, grey, ink = _colours(picture, glass_colour(picture))
    window = max(1, round(WINDOW_UM / um_per_px)) | 1
    px_per_mm2 = (1000 / um_per_px) ** 2
    pen = np.zeros(ink.shape, dtype=bool)
    if settings.drop_pen:
        pen = _pen(ink, window, LEAST_PEN_MM2 * px_per_mm2)
    mean, deviation = _moments(colour, window)
    pale = (mean > PALE[0]) & (deviation > PALE[1])
    signal = np.add(mean, deviation, out=mean)
    tissue = (pale | (signal > np.clip(otsu(signal[~pen]), *THRESHOLDS))) & ~pen
    tissue = _closed(tissue, *(max(1, round(length / um_per_px)) for length in (CLOSING_UM, CLOSING_UM + MARGIN_UM)))
    tissue = _large(tissue, settings.min_area_mm2 * px_per_mm2)
    tissue = ~_large(~tissue, settings.max_hole_mm2 * px_per_mm2)
    if settings.drop_folds and tissue.any():
        grey = ndimage.uniform_filter(grey, window)
        tissue &= grey < FOLD * np.percentile(grey[tissue], 90)
    return _large(tissue & ~pen, settings.min_area_mm2 * px_per_mm2)


def glass_colour(picture: Pixels) -> Image:
    """Return the colour of the glass: that of the most frequent brightness of pixels with little colour; else white."""
    pixels = picture[::SPARSE, ::SPARSE].reshape(-1, 3)
    darkest, brightest = pixels.min(1).astype(np.int16), pixels.max(1)
    glass = (darkest >= BRIGHT) & (brightest + 1.0 <= (darkest + 1) * np.exp(NEUTRAL))
    if glass.mean() < LEAST_GLASS:
        return np.full(3, 255, dtype=np.float32)
    counts = np.convolve(np.bincount(darkest[glass], minlength=256), np.ones(5), "same")
    return np.median(pixels[glass & (np.abs(darkest - np.argmax(counts)) <= 3)], axis=0).astype(np.float32)


def _colours(picture: Pixels, glass: Image) -> tuple[Image, Image, Mask]:
    """Return the colour of H&E, the mean optical density, and which pixels have the colour of ink.

    Tissue absorbs green most. Blue and green ink absorb red more, black ink absorbs all colours alike, and red ink
    absorbs green and blue, far more than blood does at this resolution.
    """
    levels = np.maximum(np.arange(256), 1)
    tables = -np.log(levels / np.maximum(glass, 1)[:, None]).astype(np.float32)
    colour, grey = (np.empty(picture.shape[:2], dtype=np.float32) for _ in range(2))
    ink = np.empty(picture.shape[:2], dtype=bool)
    for start in range(0, len(picture), BAND):
        rows = slice(start, start + BAND)
        red, green, blue = (table[picture[rows, :, channel]] for channel, table in enumerate(tables))
        colour[rows] = np.clip(green - np.minimum(red, blue), 0, MOST_COLOUR)
        colour[rows][(green > DARKEST[0]) | (np.minimum(red, blue) > DARKEST[1])] = 0
        grey[rows] = (red + green + blue) / 3
        densest, thinnest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
        ink[rows] = (red > 1.15 * green + 0.05) & (red > 0.3)
        ink[rows] |= (thinnest > 0.8 * densest) & (densest > 0.7)
        ink[rows] |= (green > 1.5) & (red < 0.25 * green) & (blue > 0.65 * green)
    return colour, grey, ink


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


def _moments(colour: Image, window: int) -> tuple[Image, Image]:
    """Return mean and deviation of the colour of H&E in a window around every pixel."""
    mean = ndimage.uniform_filter(colour, window)
    variance = ndimage.uniform_filter(colour**2, window) - mean**2
    return mean, np.sqrt(np.maximum(variance, 0, out=variance), out=variance)


def _pen(ink: Mask, window: int, least: float) -> Mask:
    """Return pen marks and their soft border: what is ink in most of a small window, as a median filter tells."""
    most = ndimage.uniform_filter(ink.astype(np.float32), max(3, window // 2) | 1) > 0.5
    return np.asarray(ndimage.maximum_filter(_large(most, least), 2 * window + 1))


def _closed(mask: Mask, grown: int, shrunk: int) -> Mask:
    """Grow a mask by some pixels, which closes gaps, and shrink it again."""
    return np.asarray(ndimage.minimum_filter(ndimage.maximum_filter(mask, 2 * grown + 1), 2 * shrunk + 1))


def _large(mask: Mask, least: float) -> Mask:
    """Return the pieces of at least so many pixels; pixels that touch at a corner alone are of different pieces."""
    pieces = ndimage.label(mask)[0]
    sizes = np.bincount(pieces.ravel())
    keep = sizes >= least
    keep[0] = False
    return np.asarray(keep[pieces])
