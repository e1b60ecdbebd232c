"""Colours of experts: the same in every plot, and distinct with the common colour vision deficiencies as well."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c1ff9", "#6c1313", "#cece7e", "#5c2353",
    "#301b98", "#a3dcb6", "#9783fc", "#e0064e", "#40136c", "#ae0404", "#67e4e4", "#a63f73", "#235c36", "#84a63f",
)  # fmt: skip


def palette(n: int) -> NDArray[np.str_]:
    """Return ``n`` colours as hex strings; beyond 20, hues follow the golden angle."""
    extra = (
        colorsys.hls_to_rgb((0.618034 * i) % 1, 0.35 + 0.3 * (i % 2), 0.7) for i in range(max(0, n - len(COLOURS)))
    )
    return np.array([*COLOURS[:n], *("#" + "".join(f"{round(255 * c):02x}" for c in rgb) for rgb in extra)])
