"""Training goes on from the weights of a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.sections import GENES, arrays, cohort, featured, said_of, train

import spade as sp
from spade.core.expression.normalise import log_normalise
from spade.models import GenePanel


def test_training_goes_on_from_the_weights_of_a_model(trained):
    """With a rate of nearly nothing the experts stay what they were, so that is where training begins."""
    before = arrays(trained)
    still = train(cohort(), genes=None, init=trained, lr=1e-12, n_epochs=1, dim=99)
    features = featured(seed=5)["table"].obsm["X_f"]
    x = log_normalise(featured(seed=5)["table"].X)[:, :20]
    np.testing.assert_allclose(still.encode_image(features), trained.encode_image(features), atol=1e-5)
    np.testing.assert_allclose(
        still.encode_expression(x, "uniform"), trained.encode_expression(x, "uniform"), atol=1e-5
    )
    assert (still.genes, still.config.init, still.dim) == (trained.genes, trained.id, trained.dim)
    np.testing.assert_array_equal(still.routing.centroids, trained.routing.centroids)
    moved = train(cohort(), init=trained)
    assert moved.history["train_loss"].iloc[-1] < trained.history["train_loss"].iloc[0]
    assert arrays(trained) == before


def test_going_on_starts_lower_on_unseen_sections():
    """What it is for: a model of many spots, gone on with on few of a new section."""

    def paired(name, n, seed):
        sample = featured(n, name=name, seed=seed)
        sample["table"].obsm["X_f"] = np.log1p(sample["table"].X[:, :8].toarray()).astype(np.float32)
        return sample

    settings = {"n_prototypes": 2, "n_experts": 1, "lr": 1e-3}
    many = train([paired(f"m{i}", 36, i) for i in range(6)], n_epochs=60, **settings)
    few = [paired("few", 20, 50)]
    fresh_start, gone_on = (train(few, n_epochs=3, init=init, **settings) for init in (None, many))
    assert gone_on.history["train_loss"].iloc[0] < 0.9 * fresh_start.history["train_loss"].iloc[0]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"init": "model"}, TypeError, r"init='model': expected a SpadeModel"),
        (
            {"genes": GENES[1:21]},
            ValueError,
            r"genes: these 20 genes are not those of init= in their order \(20 genes\)",
        ),
        ({"genes": GENES[:19]}, ValueError, r"genes: these 19 genes are not those of init="),
    ],
)
def test_what_does_not_fit_the_model_is_refused(trained, options, error, said):
    with pytest.raises(error, match=said):
        train(cohort(), **{"init": trained, **options})


def test_init_needs_its_encoder_and_its_number_of_experts(trained):
    routing = sp.tl.cluster_experts(cohort(), use_rep="X_f", n_prototypes=4, n_experts=3)
    with pytest.raises(ValueError, match=r"routing: 3 experts on 8 features, but init= has 2 on 8"):
        train(cohort(), init=trained, routing=routing)
    samples, others = cohort(), cohort()
    for sample in samples:
        said_of(sample, encoder="uni", encoder_id="abc")
    for sample in others:
        said_of(sample, encoder="gigapath", encoder_id="def")
    with pytest.raises(ValueError, match=r"comes from encoder 'gigapath'.*from encoder 'uni'"):
        train(others, init=train(samples))


def test_a_routing_of_other_features_does_not_hide_those_of_init():
    """Two encoders of one width: the routing fits the features, the weights do not."""
    ours, others = cohort(), cohort()
    for sample in ours:
        said_of(sample, encoder="enca", encoder_id="a", colour="macenko")
    init = train(ours)
    for facts in (
        {"encoder": "encb", "encoder_id": "b", "colour": "macenko"},
        {"encoder": "enca", "encoder_id": "a"},
    ):
        for sample in others:
            said_of(sample, **facts)
        routing = sp.tl.cluster_experts(others, use_rep="X_f", n_prototypes=4, n_experts=2)
        with pytest.raises(
            ValueError, match=rf"comes from encoder '{facts['encoder']}'.*those of init= are from .*enca"
        ):
            train(others, init=init, routing=routing)
    routing = sp.tl.cluster_experts(ours, use_rep="X_f", n_prototypes=4, n_experts=2, rng=3)
    assert train(ours, init=init, routing=routing).config.encoder_id == "a"
    with pytest.raises(ValueError, match=r"comes from encoder 'enca'.*those of the routing or samples before it are"):
        train(ours, init=init, routing=replace(routing, settings={"encoder": "encb", "encoder_id": "b"}))


def test_expression_must_be_read_in_the_scale_of_the_weights(trained):
    per_million = train(cohort(), genes=GenePanel(GENES[:20], target_sum=1e6))
    with pytest.raises(
        ValueError, match=r"read with target_sum=10000.0, but init= was trained with target_sum=1000000"
    ):
        train(cohort(), init=per_million)
    assert train(cohort(), init=per_million, genes=None).genes.target_sum == 1e6
    samples = cohort()
    for sample in samples:
        sample["table"].layers["log"] = log_normalise(sample["table"].X)
    with pytest.raises(ValueError, match=r"normalized=True, but init= was trained with normalized=False"):
        train(samples, init=trained, layer="log", normalized=True)
    of_layer = train(samples, layer="log", normalized=True)
    with pytest.raises(ValueError, match=r"normalized=False, but init= was trained with normalized=True"):
        train(samples, init=of_layer)
    for sample in samples:
        sample["table"].X = log_normalise(sample["table"].X)
    assert train(samples, init=of_layer, normalized=True).config.layer is None
