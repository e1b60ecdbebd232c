"""Compiled image statistics against numpy, scipy and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.texture import field, scene, stains_of
from scipy import ndimage

from spade.core.texture import nuclei, patterns, stains
from spade.encoders import _texture as texture


def test_concentrations_match_scikit_image() -> None:
    from skimage.color import separate_stains

    patch = scene(1)
    reference = 6 * separate_stains(patch, texture.UNMIXING)  # it divides densities by log10(1e6), and clips below 0
    np.testing.assert_allclose(np.maximum(np.moveaxis(stains_of(patch), 0, -1), 0), reference, atol=0.51 * stains.STEP)


def test_binary_patterns_match_scikit_image() -> None:
    from skimage.feature import local_binary_pattern

    image = field(np.random.default_rng(4), (90, 70), 1.5).astype(np.float32)
    codes = local_binary_pattern(image.astype(float), 8, 1, "uniform")[1:-1, 1:-1]
    np.testing.assert_allclose(
        patterns.binary_patterns(image), np.bincount(codes.astype(int).ravel(), minlength=10) / codes.size, atol=5e-4
    )


@pytest.mark.parametrize("density", [0.0, 0.1, 0.4, 0.55, 0.7, 1.0])
def test_components_match_scikit_image(density: float) -> None:
    from skimage.measure import label, regionprops

    rng = np.random.default_rng(7)
    mask = rng.random((61, 83)) < density
    labels, number = nuclei.label(mask)
    expected = label(mask, connectivity=2)
    np.testing.assert_array_equal(labels, expected)
    assert number == expected.max()
    values = rng.random(mask.shape).astype(np.float32)
    regions = [r for r in regionprops(expected, values) if r.area >= 4]
    rows = [(r.area, *r.centroid, r.eccentricity, r.intensity_mean) for r in regions]
    np.testing.assert_allclose(
        nuclei.measure(labels, number, values, 4.0), np.array(rows).reshape(-1, 5), rtol=1e-6, atol=1e-6
    )


def test_winding_components_are_one() -> None:
    y, x = np.indices((64, 64)) - 32
    turns = np.hypot(y, x) - 6 * np.arctan2(y, x) / (2 * np.pi)
    mask = np.mod(turns, 6) < 2.5
    labels, number = nuclei.label(mask)
    assert number == ndimage.label(mask, np.ones((3, 3)))[1]
    assert (labels > 0).sum() == mask.sum()


def test_blur_matches_scipy() -> None:
    image = np.round(field(np.random.default_rng(8), (40, 50), 1) * 1024).astype(np.float32) / 1024
    weights = np.round(1024 * np.exp(-0.5 * (np.arange(-4, 5) / 1.3) ** 2))
    share = weights / weights.sum()
    expected = ndimage.correlate1d(
        ndimage.correlate1d(image.astype(float), share, 0, mode="nearest"), share, 1, mode="nearest"
    )
    np.testing.assert_allclose(nuclei.blur(image, weights), expected, atol=0.51 * stains.STEP)


def test_threshold_splits_as_scikit_image_does() -> None:
    from skimage.filters import threshold_otsu

    rng = np.random.default_rng(9)
    values = np.concatenate([rng.normal(0.3, 0.08, 5000), rng.normal(0.9, 0.15, 2000)])
    values = (np.round(values * 1024) / 1024).astype(np.float32)[None]
    counts = stains.count_values(values, np.ones(values.shape, bool))
    levels = texture._CONCENTRATIONS
    threshold = nuclei.nuclear_threshold(counts, levels, 0.25, 0.15)
    np.testing.assert_array_equal(values >= threshold, values > threshold_otsu(hist=(counts, levels)))
    assert nuclei.nuclear_threshold(counts, levels, 0.8, 0.15) == 0.8
    assert nuclei.nuclear_threshold(counts, levels, 0.25, 0.9) == np.inf  # the two sides are 0.6 apart


def test_threshold_of_two_values_lies_between_them() -> None:
    values = np.array([[0.5, 0.5, 0.5, 1.0]], np.float32)
    counts = stains.count_values(values, np.ones((1, 4), bool))
    assert nuclei.nuclear_threshold(counts, texture._CONCENTRATIONS, 0.25, 0.15) == pytest.approx(0.75, abs=1e-3)
