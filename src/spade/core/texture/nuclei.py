"""Nuclei of a patch: threshold, labels and measurements; compiled."""

from __future__ import annotations

import math

import numpy as np

from spade.core.compiled import compiled
from spade.core.texture.stains import STEP

NUCLEUS_QUANTILES = (0.10, 0.50, 0.90)


@compiled()
def blur(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Smooth with the symmetric kernel ``weights`` along both axes, and round to multiples of ``STEP``.

    Border pixels are repeated. ``weights`` are whole numbers, so that every sum is exact in float64.
    """
    height, width = image.shape
    reach = len(weights) // 2
    rows = np.zeros((height, width), np.float64)
    padded = np.empty(width + 2 * reach, np.float64)
    for y in range(height):
        padded[:reach] = image[y, 0]
        padded[reach : reach + width] = image[y]
        padded[reach + width :] = image[y, width - 1]
        for k in range(len(weights)):
            for x in range(width):
                rows[y, x] += weights[k] * padded[x + k]
    norm = 1.0 / (weights.sum() * weights.sum() * STEP)
    out = np.empty((height, width), np.float32)
    line = np.empty(width, np.float64)
    for y in range(height):
        line[:] = 0.0
        for k in range(len(weights)):
            source = min(max(y + k - reach, 0), height - 1)
            for x in range(width):
                line[x] += weights[k] * rows[source, x]
        for x in range(width):
            out[y, x] = math.floor(line[x] * norm + 0.5) * STEP
    return out


@compiled()
def nuclear_threshold(counts: np.ndarray, values: np.ndarray, minimum: float, contrast: float) -> float:
    """Return Otsu's threshold of a histogram, at least ``minimum``.

    Values at or above the threshold are foreground. Of several equally good thresholds the middle is taken. The
    threshold is infinite if the means of foreground and background differ by less than ``contrast``.
    """
    below, mass = np.cumsum(counts), np.cumsum(counts * values)
    total, whole = below[-1], mass[-1]
    best, first, last = 0.0, 0, 0
    for k in range(len(values) - 1):
        if 0 < below[k] < total:
            gap = (whole - mass[k]) / (total - below[k]) - mass[k] / below[k]
            between = gap * gap * below[k] * (total - below[k])
            if between > best:
                best, first = between, k
            if between == best:
                last = k
    threshold = max((values[first] + values[last] + STEP) / 2, minimum)
    k = np.searchsorted(values, threshold) - 1
    if not 0 < below[k] < total:
        return np.inf
    return threshold if (whole - mass[k]) / (total - below[k]) - mass[k] / below[k] >= contrast else np.inf


@compiled()
def label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the 8-connected components of ``mask`` from 1, in raster order; 0 is background."""
    height, width = mask.shape
    labels = np.zeros((height, width), np.int32)
    parent = np.zeros(height * width // 2 + 2, np.int32)
    used = 0
    for y in range(height):
        for x in range(width):
            if not mask[y, x]:
                continue
            root = 0
            for dy, dx in ((0, -1), (-1, -1), (-1, 0), (-1, 1)):
                v, u = y + dy, x + dx
                if v < 0 or u < 0 or u >= width or labels[v, u] == 0:
                    continue
                other = labels[v, u]
                while parent[other] != other:
                    parent[other] = parent[parent[other]]
                    other = parent[other]
                if root == 0 or other == root:
                    root = other
                else:
                    root, other = min(root, other), max(root, other)
                    parent[other] = root
            if root == 0:
                used += 1
                parent[used] = used
                root = used
            labels[y, x] = root
    number = 0
    for k in range(1, used + 1):  # a root is smaller than its members, so it is numbered before them
        if parent[k] == k:
            number += 1
            parent[k] = -number
        else:
            parent[k] = parent[parent[k]]
    for y in range(height):
        for x in range(width):
            labels[y, x] = -parent[labels[y, x]]
    return labels, number


@compiled()
def measure(labels: np.ndarray, number: int, values: np.ndarray, smallest: float) -> np.ndarray:
    """Return area, y, x, eccentricity and mean of ``values``, float64 (k, 5), of all components that are large enough.

    ``smallest`` is the least area in pixels.
    """
    sums = np.zeros((number + 1, 6), np.int64)
    inside = np.zeros(number + 1, np.float64)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            k = labels[y, x]
            if k:
                sums[k, 0] += 1
                sums[k, 1] += y
                sums[k, 2] += x
                sums[k, 3] += y * y
                sums[k, 4] += x * x
                sums[k, 5] += x * y
                inside[k] += values[y, x]
    out = np.empty((number, 5), np.float64)
    n_large = 0
    for k in range(1, number + 1):
        if sums[k, 0] < smallest:
            continue
        area, my, mx = float(sums[k, 0]), float(sums[k, 1]), float(sums[k, 2])
        # Second central moments times area²: whole numbers, exact up to 2^53.
        yy, xx, xy = sums[k, 3] * area - my * my, sums[k, 4] * area - mx * mx, sums[k, 5] * area - mx * my
        spread = math.sqrt((xx - yy) * (xx - yy) + 4 * xy * xy)
        eccentricity = math.sqrt(2 * spread / (xx + yy + spread)) if spread > 0 else 0.0
        out[n_large, 0], out[n_large, 1], out[n_large, 2] = area, my / area, mx / area
        out[n_large, 3], out[n_large, 4] = eccentricity, inside[k] / area
        n_large += 1
    return out[:n_large]
