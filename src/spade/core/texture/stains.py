"""Stain concentrations of one H&E patch and their statistics; compiled, in one thread, without the GIL.

Concentrations are rounded to multiples of ``STEP`` optical density. A sum of a few such numbers is exact in float32, so
2× pooling, co-occurrence counts and binary patterns do not depend on the order of the pixels: a patch, its flips and
its quarter turns give the same values if the pooling factor divides the sides.
"""

from __future__ import annotations

import math

import numpy as np

from spade.core.compiled import compiled

#: Resolution of stain concentrations, in optical density; a power of two, see above.
STEP = 1.0 / 1024.0
#: Lowest and highest concentration with a bin of its own; 8-bit images cannot leave this range.
LOWEST, HIGHEST = -4, 6
BINS = 1024 * (HIGHEST - LOWEST)
QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95)


@compiled()
def unmix(
    patch: np.ndarray, density: np.ndarray, unmixing: np.ndarray, white: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return stain concentrations (3, H, W), counts (3, 256) of the levels from 255 to 0, and tissue mask (H, W).

    ``density`` (256,) is the optical density of the levels from 255 to 0. ``unmixing`` (3, 3) turns a row of densities
    into concentrations. A pixel is tissue if its mean density reaches ``white``.
    """
    height, width = patch.shape[:2]
    stains = np.empty((3, height, width), np.float32)
    levels = np.zeros((3, 256), np.int64)
    tissue = np.empty((height, width), np.bool_)
    row = np.empty((3, width), np.float64)
    for y in range(height):
        for x in range(width):
            for c in range(3):
                level = 255 - patch[y, x, c]
                levels[c, level] += 1
                row[c, x] = density[level]
        for x in range(width):
            tissue[y, x] = row[0, x] + row[1, x] + row[2, x] >= 3 * white
        for c in range(3):
            red, green, blue = unmixing[0, c] / STEP, unmixing[1, c] / STEP, unmixing[2, c] / STEP
            for x in range(width):
                value = row[0, x] * red + row[1, x] * green + row[2, x] * blue
                stains[c, y, x] = math.floor(value + 0.5) * STEP
    return stains, levels, tissue


@compiled()
def count_values(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the counts (BINS,) of the multiples of ``STEP`` among the ``values`` (H, W) inside ``mask``."""
    counts = np.zeros(BINS, np.int64)
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            if mask[y, x]:
                counts[min(max(int(values[y, x] / STEP) - LOWEST * 1024, 0), BINS - 1)] += 1
    return counts


@compiled()
def describe(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return mean, standard deviation, signed log1p of the skewness and ``QUANTILES`` of a histogram.

    ``counts`` (k,) are the numbers of pixels with each of the ``values`` (k,), which ascend. A quantile is the smallest
    value that at least this share of the pixels does not exceed.
    """
    out = np.zeros(3 + len(QUANTILES), np.float32)
    total = counts.sum()
    mean = (counts * values).sum() / total
    second, third = 0.0, 0.0
    for k in range(len(values)):
        if counts[k]:
            distance = values[k] - mean
            second += counts[k] * distance * distance
            third += counts[k] * distance * distance * distance
    deviation = math.sqrt(second / total)
    out[0], out[1] = mean, deviation
    if deviation > STEP:
        skewness = third / total / deviation**3
        out[2] = math.copysign(math.log1p(abs(skewness)), skewness)
    seen, q = 0, 0
    for k in range(len(values)):
        seen += counts[k]
        while q < len(QUANTILES) and seen >= QUANTILES[q] * total:
            out[3 + q] = values[k]
            q += 1
    return out


@compiled()
def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Pearson correlation of two images (H, W), 0 if one of them is constant."""
    n = a.size
    sum_a, sum_b, aa, bb, ab = 0.0, 0.0, 0.0, 0.0, 0.0  # exact: products of multiples of STEP
    for y in range(a.shape[0]):
        for x in range(a.shape[1]):
            u, v = float(a[y, x]), float(b[y, x])
            sum_a, sum_b = sum_a + u, sum_b + v
            aa, bb, ab = aa + u * u, bb + v * v, ab + u * v
    variance_a, variance_b = aa / n - (sum_a / n) ** 2, bb / n - (sum_b / n) ** 2
    if min(variance_a, variance_b) <= STEP * STEP:
        return 0.0
    return (ab / n - sum_a * sum_b / n / n) / math.sqrt(variance_a * variance_b)
