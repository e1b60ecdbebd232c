"""Colours of experts: distinct, the same in every plot."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

COLOURS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf", "#7f7f7f",
    "#003f8a", "#b35900", "#0b5d1e", "#7a0f1a", "#4b2a73", "#f2b701", "#66c2a5", "#a6cee3", "#fb9a99", "#cab2d6",
)  # fmt: skip


def palette(n: int) -> NDArray[np.str_]:
    """Return ``n`` colours as hex strings; beyond 20 hues follow the golden angle."""
    extra = (
        colorsys.hls_to_rgb((0.618034 * i) % 1, 0.35 + 0.3 * (i % 2), 0.7) for i in range(max(0, n - len(COLOURS)))
    )
    return np.array([*COLOURS[:n], *("#" + "".join(f"{round(255 * c):02x}" for c in rgb) for rgb in extra)])
