"""Compiled image statistics of one H&E patch: arrays in, arrays out, one thread, the GIL released.

Concentrations are rounded to multiples of ``STEP`` optical density. A sum of a few such numbers is exact in float32, so
2× pooling, co-occurrence counts and binary patterns do not depend on the order of the pixels: a patch, its flips and
its quarter turns give the same values where their sides divide by the pooling factor.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

#: Resolution of stain concentrations, in optical density. A power of two, see above.
STEP = 1.0 / 1024.0
#: Lowest and highest concentration that has a bin of its own; 8-bit images cannot leave this range.
LOWEST, HIGHEST = -4, 6
BINS = 1024 * (HIGHEST - LOWEST)
GLCM_LEVELS = 32
QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95)
NUCLEUS_QUANTILES = (0.10, 0.50, 0.90)

_TAN_11, _TAN_33 = np.float32(math.tan(math.pi / 16)), np.float32(math.tan(3 * math.pi / 16))
# Bilinear weights of a point on the unit circle at 45 degrees: of the two edge neighbours and of the corner.
_EDGE, _CORNER = math.sqrt(0.5) * (1 - math.sqrt(0.5)), 0.5


@njit(cache=True, nogil=True)
def unmix(
    patch: np.ndarray, density: np.ndarray, unmixing: np.ndarray, white: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stain concentrations (3, H, W), counts of the levels per channel from 255 to 0 (3, 256), tissue mask (H, W).

    ``density`` (256,) is the optical density of the levels from 255 to 0, ``unmixing`` (3, 3) takes densities (as a
    row) to concentrations; a pixel is tissue if its mean density reaches ``white``.
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


@njit(cache=True, nogil=True)
def count_values(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Counts (BINS,) of the multiples of ``STEP`` among the ``values`` (H, W) inside ``mask``."""
    counts = np.zeros(BINS, np.int64)
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            if mask[y, x]:
                counts[min(max(int(values[y, x] / STEP) - LOWEST * 1024, 0), BINS - 1)] += 1
    return counts


@njit(cache=True, nogil=True)
def describe(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean, standard deviation, signed log1p of the skewness and ``QUANTILES`` of a histogram.

    ``counts`` (k,) says how often each of the ``values`` (k,) occurs; the values ascend. Quantiles are the
    smallest value that at least this share of the pixels does not exceed.
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


@njit(cache=True, nogil=True)
def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two images (H, W), 0 where one of them is constant."""
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


@njit(cache=True, nogil=True)
def halve(image: np.ndarray) -> np.ndarray:
    """Means of 2×2 blocks; an odd last row or column is left out."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    out = np.empty((height, width), np.float32)
    quarter = np.float32(0.25)
    for y in range(height):
        for x in range(width):
            top = image[2 * y, 2 * x] + image[2 * y, 2 * x + 1]
            out[y, x] = (top + image[2 * y + 1, 2 * x] + image[2 * y + 1, 2 * x + 1]) * quarter
    return out


@njit(cache=True, nogil=True)
def edges(image: np.ndarray) -> np.ndarray:
    """Gradient mean and deviation, Laplacian root mean square, coherence, orientation entropy.

    Gradients are central differences inside the border. Coherence is the anisotropy of the structure tensor over 3×3
    pixels, (λ₁ − λ₂) / (λ₁ + λ₂), averaged with the weight λ₁ + λ₂. The entropy of the gradient's orientation (8 bins
    over 180 degrees, centred on the axes and diagonals, weighted by magnitude) is divided by log 8.
    """
    height, width = image.shape[0] - 2, image.shape[1] - 2
    tensor = np.empty((3, height, width), np.float32)
    orientation = np.zeros(8, np.float64)
    total, squares, laplacian = 0.0, 0.0, 0.0
    magnitude, curvature = np.empty(width, np.float32), np.empty(width, np.float32)
    direction = np.empty(width, np.int32)
    for y in range(height):
        for x in range(width):
            west, east = image[y + 1, x], image[y + 1, x + 2]
            north, south = image[y, x + 1], image[y + 2, x + 1]
            gx, gy = (east - west) * np.float32(0.5), (south - north) * np.float32(0.5)
            tensor[0, y, x], tensor[1, y, x], tensor[2, y, x] = gx * gx, gy * gy, gx * gy
            magnitude[x] = np.sqrt(gx * gx + gy * gy)
            curvature[x] = image[y + 1, x + 1] * np.float32(4) - ((east + west) + (south + north))
            # Angle from the nearer axis in steps of 22.5 degrees, then from the x axis, then with its sign.
            low, high = min(abs(gx), abs(gy)), max(abs(gx), abs(gy))
            turn = int(low > _TAN_11 * high) + int(low > _TAN_33 * high)
            turn = 4 - turn if abs(gy) > abs(gx) else turn
            direction[x] = (8 - turn) & 7 if gx * gy < 0 else turn
        for x in range(width):
            total += magnitude[x]
            squares += magnitude[x] * magnitude[x]
            laplacian += curvature[x] * curvature[x]
            orientation[direction[x]] += magnitude[x]
    n = height * width
    out = np.zeros(5, np.float32)
    mean = total / n
    out[0], out[1] = mean, math.sqrt(max(squares / n - mean * mean, 0.0))
    out[2] = math.sqrt(laplacian / n)
    if total <= 1e-6 * n:
        return out
    anisotropy, trace = 0.0, 0.0
    column = np.empty((3, width), np.float32)
    for y in range(1, height - 1):
        for k in range(3):
            for x in range(width):
                column[k, x] = tensor[k, y - 1, x] + tensor[k, y, x] + tensor[k, y + 1, x]
        for x in range(1, width - 1):
            xx = column[0, x - 1] + column[0, x] + column[0, x + 1]
            yy = column[1, x - 1] + column[1, x] + column[1, x + 1]
            xy = column[2, x - 1] + column[2, x] + column[2, x + 1]
            anisotropy += math.sqrt((xx - yy) * (xx - yy) + np.float32(4) * xy * xy)
            trace += xx + yy
    if trace > 0:
        out[3] = anisotropy / trace
    for k in range(8):
        share = orientation[k] / total
        if share > 0:
            out[4] -= share * math.log(share) / math.log(8.0)
    return out


@njit(cache=True, nogil=True)
def cooccurrence(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Haralick's log1p contrast, homogeneity, energy, correlation, entropy: means over four directions.

    Grey levels are ``GLCM_LEVELS`` equal steps from ``low`` to ``high``, values outside go to the nearest; pairs are
    neighbours at 0, 45, 90 and 135 degrees, counted both ways. The correlation of a constant image is 0.
    """
    height, width = image.shape
    scale = np.float32(GLCM_LEVELS / (high - low))
    bottom, top = np.float32(low), np.float32(GLCM_LEVELS - 1)
    level = np.empty((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            level[y, x] = int(min(max((image[y, x] - bottom) * scale, np.float32(0)), top))
    counts = np.zeros((4, GLCM_LEVELS, GLCM_LEVELS), np.int64)
    for y in range(height - 1):
        for x in range(width - 1):
            here = level[y, x]
            counts[0, here, level[y, x + 1]] += 1
            counts[1, here, level[y + 1, x]] += 1
            counts[2, here, level[y + 1, x + 1]] += 1
            counts[3, level[y, x + 1], level[y + 1, x]] += 1
    for x in range(width - 1):
        counts[0, level[height - 1, x], level[height - 1, x + 1]] += 1
    for y in range(height - 1):
        counts[1, level[y, width - 1], level[y + 1, width - 1]] += 1
    out = np.zeros(5, np.float32)
    for d in range(4):
        total = 2.0 * counts[d].sum()
        contrast, homogeneity, energy, entropy, mean, square, product = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(GLCM_LEVELS):
            for j in range(i + 1):
                count = counts[d, i, j] + counts[d, j, i]
                if count == 0:
                    continue
                p = count / total
                both = p if i == j else 2 * p
                gap = (i - j) * (i - j)
                contrast += both * gap
                homogeneity += both / (1 + gap)
                energy += both * p
                entropy -= both * math.log(p)
                mean += both * (i + j) / 2
                square += both * (i * i + j * j) / 2
                product += both * i * j
        out[0] += math.log1p(contrast) / 4
        out[1] += homogeneity / 4
        out[2] += math.sqrt(energy) / 4
        variance = square - mean * mean
        if variance > 1e-9:
            out[3] += (product - mean * mean) / variance / 4
        out[4] += entropy / 4
    return out


@njit(cache=True, nogil=True)
def binary_patterns(image: np.ndarray) -> np.ndarray:
    """Shares (10,) of Ojala's rotation-invariant uniform patterns of 8 points at radius 1, inside the border.

    Entry k ≤ 8 is the uniform pattern (at most two changes around the circle) with k points not below the centre,
    entry 9 every other pattern. Points on the diagonals are interpolated bilinearly.
    """
    edge, corner = np.float32(_EDGE), np.float32(_CORNER)
    counts = np.zeros(10, np.int64)
    height, width = image.shape
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            c = image[y, x]
            n, s, w, e = image[y - 1, x] - c, image[y + 1, x] - c, image[y, x - 1] - c, image[y, x + 1] - c
            p0 = int(e >= 0)
            p1 = int(edge * (n + e) + corner * (image[y - 1, x + 1] - c) >= 0)
            p2 = int(n >= 0)
            p3 = int(edge * (n + w) + corner * (image[y - 1, x - 1] - c) >= 0)
            p4 = int(w >= 0)
            p5 = int(edge * (s + w) + corner * (image[y + 1, x - 1] - c) >= 0)
            p6 = int(s >= 0)
            p7 = int(edge * (s + e) + corner * (image[y + 1, x + 1] - c) >= 0)
            changes = (p0 ^ p1) + (p1 ^ p2) + (p2 ^ p3) + (p3 ^ p4) + (p4 ^ p5) + (p5 ^ p6) + (p6 ^ p7) + (p7 ^ p0)
            counts[p0 + p1 + p2 + p3 + p4 + p5 + p6 + p7 if changes <= 2 else 9] += 1
    return (counts / counts.sum()).astype(np.float32)


@njit(cache=True, nogil=True)
def blur(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Smooth with the symmetric kernel ``weights`` along both axes, border repeated, to multiples of ``STEP``.

    ``weights`` are whole numbers: with the image they make every sum exact in float64.
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


@njit(cache=True, nogil=True)
def nuclear_threshold(counts: np.ndarray, values: np.ndarray, minimum: float, contrast: float) -> float:
    """Otsu's threshold of a histogram, at least ``minimum``; infinite unless it parts means ``contrast`` apart.

    Values at or above the threshold are foreground. Where several thresholds are equally good, their middle.
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def measure(labels: np.ndarray, number: int, values: np.ndarray, smallest: float) -> np.ndarray:
    """Components of at least ``smallest`` pixels: (area, y, x, eccentricity, mean of ``values``), float64 (k, 5)."""
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
    kept = 0
    for k in range(1, number + 1):
        if sums[k, 0] < smallest:
            continue
        area, my, mx = float(sums[k, 0]), float(sums[k, 1]), float(sums[k, 2])
        # Second central moments times area²: whole numbers, exact up to 2^53.
        yy, xx, xy = sums[k, 3] * area - my * my, sums[k, 4] * area - mx * mx, sums[k, 5] * area - mx * my
        spread = math.sqrt((xx - yy) * (xx - yy) + 4 * xy * xy)
        eccentricity = math.sqrt(2 * spread / (xx + yy + spread)) if spread > 0 else 0.0
        out[kept, 0], out[kept, 1], out[kept, 2] = area, my / area, mx / area
        out[kept, 3], out[kept, 4] = eccentricity, inside[k] / area
        kept += 1
    return out[:kept]
