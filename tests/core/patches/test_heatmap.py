"""Squares as a raster: every pixel shows the square with the nearest centre, without seams, in whole and in parts."""

from __future__ import annotations

import numpy as np
import pytest

from spade.core.patches.heatmap import SquareRaster, raster_of


def expected(raster):
    """The square of every pixel by its definition, pixel by pixel."""
    y, x = (raster.pixel * (np.indices(raster.shape) + 0.5).reshape(2, -1)) + np.array(raster.origin)[::-1, None]
    reach = np.abs(np.stack([x, y], 1)[:, None] - raster.centres[None]).max(-1)
    reach[~(reach < raster.side / 2)] = np.inf
    return np.where(np.isfinite(reach.min(1)), reach.argmin(1), -1).reshape(raster.shape)


@pytest.mark.parametrize("pixel", [1.7, 9.3, 40])
def test_overlapping_squares_are_painted_as_defined(pixel):
    centres = np.random.default_rng(0).uniform(-20, 420, (60, 2))
    centres[::7] = np.nan
    raster = SquareRaster(centres, 61.3, (13.0, -5.0), pixel, (int(300 / pixel), int(410 / pixel)))
    whole = raster.whole()
    np.testing.assert_array_equal(whole, expected(raster))
    assert (whole >= 0).any()
    assert not np.isin(whole, np.arange(0, 60, 7)).any()


def test_parts_are_parts_of_the_whole():
    centres = np.random.default_rng(1).uniform(0, 900, (200, 2))
    raster = SquareRaster(centres, 80, (0.0, 0.0), 4.1, (210, 190))
    whole = raster.whole()
    for rows, columns in ((slice(0, 64), slice(0, 64)), (slice(64, 210), slice(100, 190)), (slice(5, 6), slice(7, 7))):
        np.testing.assert_array_equal(raster.region(rows, columns), whole[rows, columns])


@pytest.mark.parametrize("pixel", [0.31, 1 / 3, 0.7, 2.0])
def test_neighbours_leave_no_seams(pixel):
    side = 112 / 3
    rows, columns = np.indices((12, 15)).reshape(2, -1)
    centres = (np.column_stack([columns, rows]) + 0.5) * side
    raster = SquareRaster(centres, side, (0.0, 0.0), pixel, (int(12 * side / pixel), int(15 * side / pixel)))
    assert (raster.whole() >= 0).all()


def test_a_grid_gets_one_pixel_per_tile():
    rows, columns = np.indices((40, 50)).reshape(2, -1)
    centres = (np.column_stack([columns, rows]) + 0.5) * 112.0
    raster = raster_of(centres, 112.0, np.array([0, 0, 5700.0, 4600.0]), 2000)
    assert (raster.pixel, raster.origin, raster.shape) == (112.0, (0.0, 0.0), (42, 51))
    np.testing.assert_array_equal(raster.whole()[:40, :50].ravel(), np.arange(2000))
    part = raster_of(centres, 112.0, np.array([500.0, 300.0, 1000.0, 700.0]), 2000)
    assert (part.origin, part.end) == ((448.0, 224.0), (1008.0, 784.0))


@pytest.mark.parametrize(("shift", "max_px"), [(30.0, 120), (0.0, 20)])
def test_other_squares_and_many_tiles_get_as_many_pixels_as_allowed(shift, max_px):
    rows, columns = np.indices((40, 50)).reshape(2, -1)
    centres = (np.column_stack([columns, rows]) + 0.5) * 112.0 + shift
    raster = raster_of(centres, 112.0, np.array([0, 0, 5600.0, 4480.0]), max_px)
    assert max(raster.shape) == max_px
    np.testing.assert_array_equal(raster.whole(), expected(raster))
