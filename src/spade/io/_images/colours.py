"""Colours of pictures: what lies under transparent pixels is the white of an empty slide."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
WHITE = 255
#: Values up to which a pixel is black, above which light passes in a colour, from which a pixel is glass, and by which
#: the colours of a grey pixel differ.
BLACK, LIT, GLASS, GREY = 24, 48, 160, 12
#: Shares of pixels: that show anything, that let light of every colour pass, and that are coloured among tissue.
LEAST_SHOWN, LEAST_LIT, LEAST_COLOURED = 0.01, 0.1, 0.002


def on_white(colours: Pixels, alpha: Pixels, *, premultiplied: bool = False) -> Pixels:
    """Lay colours ``(..., 3)`` on white by their opacity ``(...)``; premultiplied ones hold their share already."""
    share = alpha[..., None].astype(np.uint16)
    own = np.minimum(colours, share) * np.uint16(WHITE) if premultiplied else colours * share
    laid: Pixels = ((own + (WHITE - share) * np.uint16(WHITE) + np.uint16(WHITE // 2)) // WHITE).astype(np.uint8)
    return laid


def flattened(image: Pixels, *, premultiplied: bool = False) -> Pixels:
    """Lay ``(h, w, 4)`` on white; the fourth channel then says which pixels show anything, 255 or 0."""
    alpha = image[..., 3]
    colours = on_white(image[..., :3], alpha, premultiplied=premultiplied)
    return np.concatenate([colours, np.where(alpha, WHITE, 0)[..., None].astype(np.uint8)], axis=-1)


def not_stained(pixels: Pixels) -> str:
    """Return why pixels ``(..., 3)`` are no picture of a stained slide in bright light; nothing if they may be one.

    Light passes through glass and stained tissue in every colour, and stains have a colour. What is nearly black shows
    nothing (scanners fill what they left out with it), and what is nearly white is glass.
    """
    colours = pixels.reshape(-1, 3)
    darkest, brightest = colours.min(axis=1), colours.max(axis=1)
    shown = brightest > BLACK
    if shown.mean() < LEAST_SHOWN or (darkest[shown] > LIT).mean() < LEAST_LIT:
        return "it is dark, as fluorescence is"
    tissue = shown & (darkest < GLASS)
    if tissue.mean() >= LEAST_SHOWN and (brightest - darkest > GREY)[tissue].mean() < LEAST_COLOURED:
        return "it is grey"
    return ""
