"""What is a lattice of spots, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.patches import lattice
from helpers.sections import square_lattice

from spade.core.spots.lattice import lattice_reach, visium_mpp


@pytest.mark.parametrize("radius", [16.5, 19.5])
@pytest.mark.parametrize("kind", ["square lattice", "scattered", "line", "two spots"])
def test_what_is_no_visium_is_not_taken_for_it(kind, radius):
    spots = {
        "square lattice": square_lattice(36, 60),
        "scattered": np.random.default_rng(0).uniform(0, 600, (300, 2)),
        "line": np.column_stack([60 * np.arange(9), np.zeros(9)]),
        "two spots": np.array([[0.0, 0], [60, 0]]),
    }[kind]
    for scale in np.linspace(0.3, 1.5, 25):  # scattered points have no pitch of 60, but some scale hits the ratio
        assert visium_mpp(spots, np.full(len(spots), radius * scale)) is None


@pytest.mark.parametrize(("jitter", "keep"), [(0, 1), (0.04, 1), (0, 0.4), (0.04, 0.4)])
@pytest.mark.parametrize("kind", ["square", "hexagonal"])
def test_a_lattice_is_told_though_spots_are_missing_or_off(kind, jitter, keep):
    points = lattice(kind, 24, jitter, keep)
    least, most = (np.sqrt(2), 2) if kind == "square" else (1, np.sqrt(3))
    assert least + 0.2 < lattice_reach(points) < most - 0.2
    assert 70 * lattice_reach(points) == pytest.approx(lattice_reach(70 * points))


@pytest.mark.parametrize("n", [0, 1, 2, 300])
def test_what_is_no_lattice_has_no_reach(n):
    assert np.isnan(lattice_reach(np.random.default_rng(0).random((n, 2))))
    assert np.isnan(lattice_reach(np.column_stack([np.arange(9.0), np.zeros(9)])))  # one row is neither
