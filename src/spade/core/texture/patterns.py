"""Patterns of a grey image: edges, co-occurrence and local binary patterns."""

from __future__ import annotations

import math

import numpy as np

from spade.core.compiled import compiled

GLCM_LEVELS = 32
_TAN_11, _TAN_33 = np.float32(math.tan(math.pi / 16)), np.float32(math.tan(3 * math.pi / 16))
# Bilinear weights of a point on the unit circle at 45 degrees: of the two edge neighbours and of the corner.
_EDGE, _CORNER = math.sqrt(0.5) * (1 - math.sqrt(0.5)), 0.5


@compiled()
def halve(image: np.ndarray) -> np.ndarray:
    """Return the means of 2×2 blocks; an odd last row or column is left out."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    out = np.empty((height, width), np.float32)
    quarter = np.float32(0.25)
    for y in range(height):
        for x in range(width):
            top = image[2 * y, 2 * x] + image[2 * y, 2 * x + 1]
            out[y, x] = (top + image[2 * y + 1, 2 * x] + image[2 * y + 1, 2 * x + 1]) * quarter
    return out


@compiled()
def edges(image: np.ndarray) -> np.ndarray:
    """Return gradient mean and deviation, Laplacian root mean square, coherence and orientation entropy.

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


@compiled()
def cooccurrence(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return Haralick's log1p contrast, homogeneity, energy, correlation and entropy, as means over four directions.

    Grey levels are ``GLCM_LEVELS`` equal steps from ``low`` to ``high``; values outside get the nearest level. Pairs
    are neighbours at 0, 45, 90 and 135 degrees, counted both ways. The correlation of a constant image is 0.
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


@compiled()
def binary_patterns(image: np.ndarray) -> np.ndarray:
    """Return the shares (10,) of Ojala's rotation-invariant uniform patterns of 8 points at radius 1.

    Pixels at the border are left out.

    Entry k ≤ 8 is the uniform pattern (at most two changes around the circle) with k points not below the centre; entry
    9 holds all other patterns. Points on the diagonals are interpolated bilinearly.
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
