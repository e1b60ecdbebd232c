"""Support and query between blocks of one section: no support spot sees tissue of a query spot."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from helpers.few_shot import labelled, run
from helpers.sections import circles, picture, pixels

import spade as sp
from spade._keys import write_provenance

few_shot = importlib.import_module("spade.tl._few_shot.few_shot")
PITCH, SIDE, ROW, RADIUS = 50.0, 112.0, 20, 60.0
N = ROW * ROW
POINTS = PITCH * (1 + np.column_stack([np.arange(N) % ROW, np.arange(N) // ROW]).astype(float))


@pytest.fixture
def wide():
    """A section of 20 × 20 spots at 50 µm, with patches of 112 µm."""
    extent = int(PITCH * (ROW + 2))
    image = picture(pixels(shape=(3, extent, extent)))
    sample = labelled("wide", n=N, spots=circles(POINTS), images={"image": image})
    sp.pp.patches(sample, size_um=SIDE)
    return sample


@pytest.fixture
def episodes(monkeypatch):
    """Every draw that is learned from."""
    drawn = []
    original = few_shot._predict

    def watched(probe, rows, name, episode, k, **options):
        drawn.append(episode)
        return original(probe, rows, name, episode, k, **options)

    monkeypatch.setattr(few_shot, "_predict", watched)
    return drawn


def gaps(support, query):
    """Distance of every support spot to the nearest query spot, along x or y, whichever is larger."""
    return np.abs(POINTS[support][:, None] - POINTS[query][None]).max(2).min(1)


def check(episodes, guard):
    assert len(episodes) == 3
    for episode in episodes:
        support, query = np.concatenate(episode.support), episode.query
        half = np.setdiff1d(np.arange(N), query)
        near = half[gaps(half, query) < guard]
        assert gaps(support, query).min() >= guard
        assert len(half) - len(support) == len(near)
        if guard > PITCH:
            assert len(near) >= 2 * ROW  # at least two columns or rows along a border that runs across the section
        assert sorted([*support, *near]) == half.tolist()


def test_the_guard_band_is_the_side_of_a_patch(wide, episodes):
    run(wide, shots=2, block_um=500)
    check(episodes, SIDE)


def test_the_guard_band_reaches_around_context_features(wide, episodes):
    write_provenance(wide["table"].uns, "X_noise", function="pp.spatial_context", radius_um=RADIUS)
    run(wide, shots=1, block_um=500, use_rep=[("X_f", "X_noise")])
    check(episodes, SIDE + 2 * RADIUS)


def test_a_given_guard_band_replaces_it(wide, episodes):
    run(wide, shots=2, block_um=500, guard_um=160)
    check(episodes, 160.0)


def test_without_a_guard_band_no_spot_is_left_out(wide, episodes):
    run(wide, shots=2, block_um=500, guard_um=0)
    check(episodes, 0.0)
    assert min(gaps(np.concatenate(one.support), one.query).min() for one in episodes) == PITCH


def test_shots_that_no_draw_of_blocks_allows_are_left_out(wide, episodes):
    with pytest.warns(UserWarning, match=r"no draw of blocks of 500 µm .* 130 labelled .*shots=: 130; drawn: 2\."):
        run(wide, shots=(2, 130), block_um=500)
    check(episodes, SIDE)
