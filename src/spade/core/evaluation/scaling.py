"""Scales of features: of columns, of whole blocks, over all rows or within sections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats, scale_of


def column_scale(x: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Mean and deviation of every column; that of a constant column is 1."""
    mean = x.mean(0, dtype=np.float64)
    return mean, scale_of(mean, x.var(0, dtype=np.float64))


def block_scale(mean: Floats, variance: Floats, *, by_column: bool) -> Floats:
    """Scale of every column of a block, after which their variances sum to 1.

    ``by_column``: every column gets the same variance; otherwise one scalar keeps the ratios between columns.
    """
    deviation = scale_of(mean, variance) if by_column else np.ones(len(mean))
    return deviation * scale_of(np.zeros(1), np.sum(variance / deviation**2, keepdims=True))


def scale_of_blocks(mean: Floats, variance: Floats, blocks: Sequence[tuple[int, bool]]) -> Floats:
    """Scale of the columns of blocks ``(width, by_column)``, which then have one variance, on average 1 a column."""
    ends = np.cumsum([width for width, _ in blocks])
    parts = [
        block_scale(mean[end - width : end], variance[end - width : end], by_column=by_column)
        for end, (width, by_column) in zip(ends, blocks, strict=True)
    ]
    return np.concatenate(parts) / np.sqrt(len(mean) / len(blocks))


def within_sections(x: NDArray[np.floating], section: NDArray[np.str_], *, block: bool, by_column: bool) -> Floats:
    """Scale the rows of every section by themselves: columns to deviation 1, or the whole as one ``block``."""
    scaled = np.empty(x.shape, dtype=np.float64)
    for name in np.unique(section):
        rows = section == name
        mean, scale = column_scale(x[rows])
        if block:
            scale = block_scale(mean, x[rows].var(0, dtype=np.float64), by_column=by_column)
        scaled[rows] = (x[rows] - mean) / scale
    return scaled
