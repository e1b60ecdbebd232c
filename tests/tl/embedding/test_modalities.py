"""How one side of a search is embedded."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sections import cohort

from spade._samples.counts import read_expression
from spade._samples.open import iter_samples
from spade.tl._embedding.modalities import encode


@pytest.mark.parametrize("modality", ["image", "expression"])
def test_logits_weigh_the_experts_by_the_query_alone(model, modality):
    sample = cohort()[0]
    x = sample["table"].obsm["X_f"]
    weights = model.route(x)
    if modality == "expression":
        (opened,) = iter_samples(sample)
        x, *_ = read_expression(opened, model.genes, None, normalized=False)
        weights = None
    query, gallery = (encode(model, modality, x, "logits", gallery=side) for side in (False, True))
    blocks = query.reshape(len(query), model.n_experts, -1), gallery.reshape(len(query), model.n_experts, -1)
    of_query, of_gallery = (np.linalg.norm(block, axis=2) for block in blocks)
    np.testing.assert_allclose(of_gallery, 1, rtol=1e-5)  # cosines, whatever the gallery's own weights
    np.testing.assert_allclose(of_query.sum(1), 1, rtol=1e-5)
    assert of_query.std() > 0
    if weights is not None:
        np.testing.assert_allclose(of_query, weights, rtol=1e-4, atol=1e-6)
