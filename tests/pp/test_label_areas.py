"""Shares of polygons in patches, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from helpers.sections import SIDE

from spade.pp._labels.areas import choose, cover, share_of, unite


def random_polygons(rng, n):
    """Stars of many sizes that overlap, touch and nest."""
    centre, radius = rng.uniform(0, SIDE, (n, 1, 2)), rng.uniform(5, 120, (n, 1, 1))
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)[None, :, None]
    reach = radius * rng.uniform(0.4, 1, (n, 12, 1))
    return shapely.polygons(centre + reach * np.concatenate([np.cos(angle), np.sin(angle)], axis=2))


@pytest.mark.parametrize("seed", range(6))
def test_shares_and_choice_agree_with_brute_force(seed):
    rng = np.random.default_rng(seed)
    drawn, codes = random_polygons(rng, 40), rng.integers(0, 4, 40)
    corner = rng.uniform(0, SIDE, (80, 2))
    squares = shapely.box(*corner.T, *(corner + rng.uniform(5, 60)).T)
    pairs = cover(squares, *unite(drawn, codes))
    shares, areas = np.zeros((80, 4)), np.zeros((80, 4))
    for label in range(4):
        whole = shapely.union_all(drawn[codes == label])
        shares[:, label] = shapely.area(shapely.intersection(squares, whole)) / shapely.area(squares)
        for part in shapely.get_parts(whole):
            areas[:, label] += part.area * (shapely.area(shapely.intersection(squares, part)) > 1e-6)
    dense = np.zeros((80, 4))
    dense[pairs.patch, pairs.label] = pairs.share
    np.testing.assert_allclose(dense, shares, atol=1e-9)
    chosen = choose(pairs, 80)
    for i in range(80):
        ties = [k for k in range(4) if shares[i, k] > 1e-9 and shares[i, k] >= shares[i].max() - 1e-6]
        assert chosen[i] == (min(ties, key=lambda k: (round(areas[i, k], 3), k)) if ties else -1)
    np.testing.assert_allclose(share_of(pairs, chosen), np.where(chosen < 0, np.nan, shares.max(1)), atol=1e-5)


def test_many_patches_and_polygons_are_fast():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 10_000, (5_000, 2))
    squares = shapely.box(*corner.T, *(corner + 100).T)
    drawn = shapely.buffer(shapely.points(rng.uniform(0, 10_000, (2_000, 2))), rng.uniform(20, 300, 2_000))
    pairs = cover(squares, *unite(drawn, rng.integers(0, 5, 2_000)))
    assert len(choose(pairs, 5_000)) == 5_000
