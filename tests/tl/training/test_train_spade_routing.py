"""Training with a routing made beforehand, and experts that few spots go to."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sections import cohort, featured, said_of, train, warns_here

import spade as sp
from spade.core.expression.normalise import log_normalise


def test_a_routing_made_beforehand_is_the_routing_of_the_model():
    samples = cohort()
    routing = sp.tl.cluster_experts(samples, use_rep="X_f", n_prototypes=5, n_experts=3, routing_temperature=0.3)
    model = train(samples, routing=routing)
    assert (model.n_experts, model.config.n_experts, model.config.routing_temperature) == (3, 3, 0.3)
    np.testing.assert_array_equal(model.routing.centroids, routing.centroids)
    features = samples[0]["table"].obsm["X_f"]
    np.testing.assert_allclose(model.route(features), routing.weights(features))


def test_a_routing_of_other_features_is_refused():
    routing = sp.tl.cluster_experts(featured(width=5), use_rep="X_f", n_prototypes=4, n_experts=2)
    said = (
        r"routing was made on features of width 5, but obsm\['X_f'\] has width 8. "
        r"Cluster these features with sp\.tl\.cluster"
    )
    with pytest.raises(ValueError, match=said):
        train(cohort(), routing=routing)


def test_an_expert_without_spots_is_named_and_never_used():
    samples = cohort()
    routing = sp.tl.cluster_experts(samples, use_rep="X_f", n_prototypes=2, n_experts=2)
    for sample in samples:
        sample.tables["table"] = sample["table"][::2].copy()  # one of the two kinds of spots
    with warns_here(r"expert [01] has no training spots: it stays untrained, and routing passes over it"):
        model = train(samples, routing=routing)
    idle = int(np.flatnonzero(~model.routing.active)[0])
    features = cohort()[0]["table"].obsm["X_f"]
    assert (model.route(features)[:, idle] == 0).all()
    x = log_normalise(samples[0]["table"].X)[:, :20]
    assert (model.route_expression(x)[:, idle] == 0).all()
    used = 1 - idle
    alone = np.eye(2)[[used] * x.shape[0]]
    np.testing.assert_array_equal(model.encode_expression(x, "uniform"), model.encode_expression(x, alone))


def test_an_expert_without_validation_spots_keeps_its_last_epoch():
    samples = cohort()
    routing = sp.tl.cluster_experts(samples, use_rep="X_f", n_prototypes=2, n_experts=2)
    for sample in samples:
        sample["table"].obs["fold"] = ["train", "train", "val", "train"] * 9  # validation is of one kind only
    with warns_here(r"expert [01] has no validation spots: the last epoch is kept"):
        model = train(samples, routing=routing, split_key="fold", n_epochs=3)
    blind = model.history.groupby("expert")["val_loss"].apply(lambda v: v.isna().all())
    assert blind.sum() == 1


def test_a_routing_brings_its_settings_along():
    samples = cohort()
    made = {"groupby": "organ", "n_prototypes": 3, "n_experts": 2, "feature_scaling": "none"}
    routing = sp.tl.cluster_experts(samples, use_rep="X_f", **made)
    model = train(samples, routing=routing)
    assert {name: getattr(model.config, name) for name in made} == made
    assert model.routing.settings == model.config.of_routing()
    assert model.id == train(samples, **made).id


def test_a_routing_of_another_encoder_is_refused(tmp_path):
    samples, other = cohort(), cohort()
    for sample in samples:
        said_of(sample, encoder="uni2_h", encoder_id="aaa")
    for sample in other:
        said_of(sample, encoder="gigapath", encoder_id="bbb")
    routing = sp.tl.cluster_experts(samples, use_rep="X_f", n_prototypes=4, n_experts=2)
    said = (
        r"comes from encoder 'gigapath' \(id bbb\), but those of the routing or "
        r"samples before it are from encoder 'uni2_h'"
    )
    with pytest.raises(ValueError, match=said):
        train(other, routing=routing)
    train(samples, routing=routing).save(tmp_path / "model")
    with pytest.raises(ValueError, match=said):
        train(other, routing=sp.models.SpadeModel.load(tmp_path / "model").routing)
