"""Regions of an image and lengths of scale bars."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.plots import pixels
from spatialdata.models import Image2DModel

from spade._samples.images import image_levels
from spade.core.patches.overview import read_region
from spade.pl._draw.tissue import nice_length


@pytest.mark.parametrize("scale_factors", [(), (2, 2)])
def test_reading_a_region_averages_whole_blocks_of_the_right_level(scale_factors):
    options = {"scale_factors": list(scale_factors) or None, "chunks": (3, 37, 30)}
    element = Image2DModel.parse(pixels(), dims=("c", "y", "x"), c_coords=list("rgb"), **options)
    levels = image_levels(element)
    found, covered = read_region(levels, np.array([40.0, 20.0, 240.0, 180.0]), max_px=50)
    assert covered.tolist() == [40, 20, 240, 180]
    assert found.shape == (40, 50, 3)
    expected = pixels()[:, 20:180, 40:240].reshape(3, 40, 4, 50, 4).mean((2, 4)).transpose(1, 2, 0)
    assert np.abs(found - expected).max() < 2  # levels of a pyramid are rounded down themselves


def test_reading_a_region_at_full_resolution_is_exact_and_stops_at_the_border():
    element = Image2DModel.parse(pixels(), dims=("c", "y", "x"), c_coords=list("rgb"), scale_factors=[2])
    found, covered = read_region(image_levels(element), np.array([-50.0, 200.0, 30.0, 900.0]), max_px=80)
    assert covered.tolist() == [0, 200, 30, 240]
    np.testing.assert_array_equal(found, pixels()[:, 200:240, :30].transpose(1, 2, 0))
    outside, _ = read_region(image_levels(element), np.array([-50.0, -50.0, -10.0, -10.0]))
    assert outside.size == 0


def test_lengths_of_scale_bars_are_round():
    assert [nice_length(x) for x in (0.99, 1, 4.9, 5, 199, 2300)] == pytest.approx([0.5, 1, 2, 5, 100, 2000])
