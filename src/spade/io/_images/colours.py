"""Colours of pictures: what lies under transparent pixels is the white of an empty slide."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
WHITE = 255


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
