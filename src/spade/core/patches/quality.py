"""How sharp patches are, and how much of them is blank."""

from __future__ import annotations

import numpy as np

from spade.core.arrays import Floats
from spade.core.patches.tiles import Pixels
from spade.core.patches.tissue import NEUTRAL

#: Weights of red, green and blue in a grey level (ITU-R BT.601).
GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def sharpness(patches: Pixels) -> Floats:
    """Return the variance of the Laplacian of each of ``(n, h, w, 3)`` patches, in squared grey levels.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000. A patch out of focus has little.
    """
    grey = patches @ GREY
    neighbours = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    laplacian = neighbours - 4 * grey[:, 1:-1, 1:-1]
    return np.asarray(laplacian.var(axis=(1, 2), dtype=np.float64))


def blank_share(patches: Pixels) -> Floats:
    """Return the share of pixels without colour of each of ``(n, h, w, 3)`` patches: glass, grey or black."""
    brightest, darkest = patches.max(axis=3) + 1.0, patches.min(axis=3) + 1.0
    return np.asarray((brightest <= darkest * np.exp(NEUTRAL)).mean(axis=(1, 2)))
