"""Entropy and distance of spots to the experts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.sections import assert_same, featured, picture, pixels, spoil, tiny, train
from scipy.stats import entropy
from spatialdata import read_zarr

import spade as sp


@pytest.fixture(scope="module")
def small():
    return train([featured(name="a"), featured(name="b", seed=1)])


def test_entropy_is_that_of_scipy_and_distance_that_to_the_nearest_prototype(small):
    sample = featured(name="new", seed=7)
    assert sp.tl.routing_scores(sample, small) is None
    obs, x = sample["table"].obs, sample["table"].obsm["X_f"]
    np.testing.assert_allclose(obs["spade_entropy"], entropy(small.route(x), axis=1), atol=1e-9)
    routing = small.routing
    z = (x - routing.mean) / (routing.scale / np.sqrt(8))
    centres = routing.centroids * np.sqrt(8)
    by_hand = np.sqrt(((z[:, None] - centres) ** 2).mean(2)).min(1)  # root of the mean squared difference of z-scores
    np.testing.assert_allclose(obs["spade_distance"], by_hand, atol=1e-6)
    facts = sample["table"].uns["spade"]["spade_distance"]
    assert (facts["function"], facts["model_id"], facts["use_rep"]) == ("tl.routing_scores", small.id, "X_f")


def test_far_features_are_far_and_rows_without_a_patch_are_nan(small):
    sample = featured(name="new", seed=7)
    spoil(sample, "X_f", [0, 1])
    spoil(sample, "X_f", [5, 6], 40.0)
    sp.tl.routing_scores(sample, small, key_added="one")
    obs = sample["table"].obs
    assert np.flatnonzero(obs["one_distance"].isna()).tolist() == [0, 1]
    assert np.flatnonzero(obs["one_entropy"].isna()).tolist() == [0, 1]
    near = obs["one_distance"].drop(obs.index[[0, 1, 5, 6]])
    assert near.max() < 1.2
    assert (obs["one_distance"].iloc[[5, 6]] > 5 * near.max()).all()


def test_prototypes_of_experts_that_were_never_trained_do_not_count():
    routing = sp.tl.cluster_experts(featured(), use_rep="X_f", n_prototypes=2, n_experts=2)
    x = featured()["table"].obsm["X_f"]
    apart = replace(routing, active=np.array([True, False]))
    np.testing.assert_allclose(
        apart.nearest_distance(x), routing.distances(x)[:, routing.assignment == 0].min(1), atol=1e-12
    )
    assert (apart.nearest_distance(x) >= routing.nearest_distance(x)).all()


def test_patches_of_a_noise_image_are_further_than_tissue(cohort, model):
    noise = tiny(36, name="noise", mpp=0.5, images={"image": picture(pixels(3))})
    sp.pp.patches(noise)
    sp.pp.encode_patches(noise)
    sp.tl.routing_scores([*cohort, noise], model)
    tissue = np.concatenate([s["table"].obs["spade_distance"] for s in cohort])
    valid = noise["table"].obs["spade_distance"].dropna()
    assert len(valid)
    assert valid.min() > tissue.max()
    assert np.sqrt(np.mean(tissue**2)) < 1


def test_scores_survive_their_store_and_paths_are_saved(small, tmp_path):
    sample = featured(name="a")
    spoil(sample, "X_f", [3])
    sp.io.write(sample, tmp_path / "a.zarr")
    sp.tl.routing_scores(sample, small)
    sp.tl.routing_scores(tmp_path / "a.zarr", small)
    assert_same(sample, read_zarr(tmp_path / "a.zarr"))


def test_scores_say_what_they_need(small):
    with pytest.raises(TypeError, match=r"model='folder': expected a SpadeModel"):
        sp.tl.routing_scores(featured(), "folder")
    with pytest.raises(ValueError, match=r"has 5 features, but the model reads 8"):
        sp.tl.routing_scores(featured(width=5), small)
    with pytest.raises(KeyError, match=r"use_rep='X_no' is not in obsm; there is 'X_f'"):
        sp.tl.routing_scores(featured(), small, use_rep="X_no")
    with pytest.raises(ValueError, match=r"key_added='a b' cannot be stored"):
        sp.tl.routing_scores(featured(), small, key_added="a b")


def test_scores_are_not_laid_beside_the_experts_of_another_model(small):
    sample, other = featured(), train([featured()], n_experts=1, n_prototypes=1, dim=4)
    sp.tl.embed(sample, other)
    with pytest.raises(ValueError, match=rf"key_added='spade' has the experts of another model \({other.id}"):
        sp.tl.routing_scores(sample, small)
    assert "spade_entropy" not in sample["table"].obs
    sp.tl.routing_scores(sample, other)
    sp.tl.routing_scores(sample, small, key_added="small")
