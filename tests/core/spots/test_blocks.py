"""The guard band between training and test spots: no tissue in common, and no neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.patches import lattice
from scipy.spatial import KDTree

from spade.core.spots.blocks import guard_band, too_near


@pytest.mark.parametrize("pitch", [1.0, 100.0, 200.0 / 3])
@pytest.mark.parametrize("jitter", [0, 0.06])
@pytest.mark.parametrize(("kind", "n_neighbours", "reach"), [("square", 8, 1.7), ("hexagonal", 6, 1.4)])
def test_no_training_spot_is_a_lattice_neighbour_of_a_test_spot(kind, n_neighbours, reach, jitter, pitch):
    points = pitch * lattice(kind, 24, jitter)
    tree = KDTree(points)
    assert np.median([len(near) - 1 for near in tree.query_ball_point(points, reach * pitch)]) == n_neighbours
    width = guard_band(points, 0.0)
    assert width == pytest.approx(2 * pitch, rel=0.03)
    for test in (points[:, 0] > np.median(points[:, 0]), np.arange(len(points)) % 97 == 5):
        train = np.flatnonzero(~test)
        kept = train[~too_near(points[train], points[test], width)]
        assert len(kept) < len(train)
        assert KDTree(points[test]).query(points[kept])[0].min() > reach * pitch
        # without the band, some would be
        assert KDTree(points[test]).query(points[train])[0].min() < reach * pitch


@pytest.mark.parametrize("pitch", [0.1, 1 / 3, 100.0, 4 / 7])
def test_spots_two_pitches_away_are_kept_whatever_the_rounding(pitch):
    columns = np.column_stack([pitch * np.arange(50), np.zeros(50)]) + 1 / 3
    test = np.arange(50) >= 25
    near = too_near(columns[~test], columns[test], guard_band(columns, 0.0))
    assert np.flatnonzero(near).tolist() == [24]


def test_a_patch_wider_than_two_pitches_decides_and_single_spots_have_no_pitch():
    points = lattice("square", 12) * 50
    assert guard_band(points, 112.0) == 112
    assert guard_band(points, 99.0) == pytest.approx(100)
    assert guard_band(points[:1], 112.0) == 112
    assert guard_band(np.zeros((6, 2)), 112.0) == 112
