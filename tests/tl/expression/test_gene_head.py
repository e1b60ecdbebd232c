"""Expression predicted by the image-to-gene head of a tuned encoder."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sections import GENES, featured

import spade as sp

PANEL = GENES[:12]


@pytest.fixture(scope="module")
def model():
    return sp.tl.train_seal(
        [featured(name="a"), featured(name="b", seed=1)], on_features="X_f", genes=PANEL, dim=8, hidden=16, n_epochs=2,
        batch_size=16,
    )  # fmt: skip


def test_the_head_predicts_without_a_reference(model):
    sample = featured(name="c", seed=2)
    sample["table"].obsm["X_f"][3] = np.nan
    sp.tl.predict_expression(sample, model, method="head", key_added="head")
    table = sample["table"]
    expected = model.predict_expression(table.obsm["X_f"])
    np.testing.assert_array_equal(table.obsm["X_head"], expected)
    assert np.isnan(table.obsm["X_head"][3]).all() and not np.isnan(np.delete(table.obsm["X_head"], 3, 0)).any()
    assert (np.delete(table.obsm["X_head"], 3, 0) >= 0).all()  # log1p of counts
    assert table.uns["head_genes"].tolist() == list(PANEL)
    assert "X_head_deviation" not in table.obsm
    assert table.uns["spade"]["X_head"]["model_id"] == model.id


def test_some_genes_in_another_order_and_what_another_method_left(model):
    sample, reference = featured(name="c", seed=2), featured(name="d", seed=3)
    sp.tl.predict_expression(sample, reference=reference, method="ridge", use_rep="X_f", genes=PANEL, alpha=1.0)
    assert "X_predicted_deviation" in sample["table"].obsm
    some = [PANEL[7], PANEL[2]]
    sp.tl.predict_expression(sample, model, method="head", genes=some)
    table = sample["table"]
    np.testing.assert_array_equal(table.obsm["X_predicted"], model.predict_expression(table.obsm["X_f"])[:, [7, 2]])
    assert table.uns["predicted_genes"].tolist() == some
    assert "X_predicted_deviation" not in table.obsm  # it was of other predictions


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (TypeError, 'method="head" needs a SealModel', {"model": None}),
        (ValueError, "leave reference= out", {"reference": []}),
        (KeyError, r"genes: 'GX' are not among the 12 genes that the model predicts", {"genes": ["G00", "GX"]}),
        (ValueError, "would replace obsm", {"key_added": "f"}),
        (ValueError, "expected one of 'neighbours', 'ridge', 'head'", {"method": "knn"}),
        (ValueError, 'only "head" needs none', {"method": "neighbours"}),
        (KeyError, "use_rep='X_g' is not in obsm", {"use_rep": "X_g"}),
    ],
)
def test_what_does_not_fit_is_refused(model, error, message, options):
    options = {"model": model, "method": "head"} | options
    with pytest.raises(error, match=message):
        sp.tl.predict_expression(featured(), options.pop("model"), **options)


def test_a_model_without_a_head_says_so():
    model = sp.tl.train_seal(featured(), on_features="X_f", genes=PANEL, dim=8, n_epochs=1, image_to_gene=0)
    with pytest.raises(ValueError, match="image_to_gene=0"):
        sp.tl.predict_expression(featured(), model, method="head")
