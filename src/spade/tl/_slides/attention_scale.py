"""Attention that can be compared between slides: what ``pl.attention`` draws."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from spade.core.arrays import Floats

PERCENTILE, RELATIVE = "percentile", "relative"


def scaled_attention(values: Floats, slide: NDArray[np.str_], scale: str) -> Floats:
    """Scale the attention of every patch by its slide; NaN stays NaN.

    ``"percentile"``: rank among the patches of the slide, from 0 to 100, the middle rank for ties. ``"relative"``:
    attention times the number of patches, so that 1 is the mean.
    """
    scaled = np.full(len(values), np.nan)
    for name in np.unique(slide):
        rows = np.flatnonzero((slide == name) & np.isfinite(values))
        if scale == PERCENTILE:
            scaled[rows] = 100 * (rankdata(values[rows]) - 0.5) / max(1, len(rows))
        else:
            scaled[rows] = values[rows] * len(rows)
    return scaled
