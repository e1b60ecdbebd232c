"""Experts that are clusters of expression, and a classifier of the image that routes to them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import spade as sp

SETTINGS = {"use_rep": "X_texture", "n_experts": 4, "n_prototypes": 4, "n_epochs": 2, "warm_start": 0}


@pytest.fixture(scope="module")
def cohort():
    samples = sp.datasets.toy(4, 150)
    sp.pp.patches(samples)
    sp.pp.encode_patches(samples)
    return samples, sp.pp.select_genes(samples[:2])


@pytest.fixture(scope="module")
def model(cohort):
    samples, genes = cohort
    return sp.tl.train_spade(samples[:2], genes=genes, routing="learned", **SETTINGS)


@pytest.mark.slow
def test_images_of_other_patients_are_routed_to_the_experts_of_their_expression(cohort, model):
    samples, genes = cohort
    shuffled = sp.tl.train_spade(samples[:2], genes=genes, routing="learned", shuffle_pairs=True, **SETTINGS)
    found = []
    for one in (model, shuffled):
        weights = np.concatenate([one.route(s["table"].obsm["X_texture"]) for s in samples[2:]])
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
        domain = np.concatenate([s["table"].obs["domain"].astype(str) for s in samples[2:]])
        valid = ~np.isnan(weights).any(1)
        found.append(adjusted_rand_score(domain[valid], weights[valid].argmax(1)))
    assert found[0] > 0.6
    assert found[1] < 0.2


def test_embed_writes_logits_whose_softmax_are_the_weights(cohort, model):
    sample = cohort[0][2]
    sp.tl.embed(sample, model)
    obsm = sample["table"].obsm
    logits = np.asarray(obsm["spade_expert_logits"], dtype=np.float64)
    share = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(share / share.sum(1, keepdims=True), obsm["spade_expert_weights"], atol=1e-5)
    assert (sample["table"].obs["spade_expert"].astype(int) == logits.argmax(1)).all()


def test_logits_of_an_earlier_model_do_not_stay(cohort, model):
    samples, genes = cohort
    sample = samples[3]
    sp.tl.embed(sample, model)
    by_distance = sp.tl.train_spade(samples[:2], genes=genes, **SETTINGS)
    assert by_distance.config.gate is None
    sp.tl.embed(sample, by_distance)
    assert "spade_expert_logits" not in sample["table"].obsm


def test_a_saved_model_routes_alike(cohort, model, tmp_path):
    model.save(tmp_path / "model")
    again = sp.models.SpadeModel.load(tmp_path / "model")
    assert again.id == model.id
    assert "learned gate" in (tmp_path / "model" / "README.md").read_text()
    x = cohort[0][2]["table"].obsm["X_texture"]
    np.testing.assert_array_equal(again.route(x), model.route(x))


def test_what_has_no_meaning_is_refused(cohort, model):
    samples, genes = cohort
    with pytest.raises(ValueError, match="routing='distance': expected one of 'learned'"):
        sp.tl.train_spade(samples[:2], genes=genes, routing="distance", **SETTINGS)
    with pytest.raises(ValueError, match="init= has a routing of its own"):
        sp.tl.train_spade(samples[:2], genes=genes, routing="learned", init=model, use_rep="X_texture")
    with pytest.raises(ValueError, match="has no gate"):
        sp.tl.cluster_experts(samples[:2], use_rep="X_texture", n_experts=2, n_prototypes=4).logits(np.zeros((2, 184)))
