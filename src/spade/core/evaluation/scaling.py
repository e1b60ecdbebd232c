"""Scales of features: of columns, of whole blocks, over all rows or within sections."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats, scale_of


def column_scale(x: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Mean and deviation of every column; that of a constant column is 1."""
    mean = x.mean(0, dtype=np.float64)
    return mean, scale_of(mean, x.var(0, dtype=np.float64))


def block_scale(x: NDArray[np.floating], *, by_column: bool) -> tuple[Floats, Floats]:
    """Mean and scale of every column, after which the variances of all columns sum to 1.

    ``by_column``: every column gets the same variance; otherwise one scalar keeps the ratios between columns.
    """
    mean, deviation = column_scale(x)
    variance = ((x - mean) / deviation).var(0) if by_column else x.var(0, dtype=np.float64)
    total = scale_of(np.zeros(1), variance.sum(keepdims=True))
    return mean, deviation * total if by_column else np.repeat(total, len(mean))


def within_sections(x: NDArray[np.floating], section: NDArray[np.str_], *, block: bool, by_column: bool) -> Floats:
    """Scale the rows of every section by themselves: columns to deviation 1, or the whole as one ``block``."""
    scaled = np.empty(x.shape, dtype=np.float64)
    for name in np.unique(section):
        rows = section == name
        mean, scale = block_scale(x[rows], by_column=by_column) if block else column_scale(x[rows])
        scaled[rows] = (x[rows] - mean) / scale
    return scaled
