"""Program models: arrays in, arrays out, and their folders."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sections import GENES, edit, featured

import spade as sp
from spade.models import ProgramModel


@pytest.fixture(scope="module")
def model():
    samples = [featured(name="a"), featured(name="b", seed=1)]
    return sp.tl.train_programs(samples, use_rep="X_f", genes=GENES[:20], n_clusters=(3, 4), n_programs=2)


def scaled(x):
    x = x.astype(np.float64)
    return (x - x.mean(0)) / x.std(0)


def test_outputs_are_linear_in_features_scaled_by_section(model):
    one, other = (featured(seed=seed)["table"].obsm["X_f"] for seed in (2, 3))
    weights, bias = model._arrays["weights"], model._arrays["bias"]
    expected = np.concatenate([scaled(one) @ weights + bias, scaled(other) @ weights + bias])
    both = np.concatenate([one, 100 * other])  # a scale of the section does not matter
    found = model.encode_image(both, ["a"] * 36 + ["b"] * 36)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert found.dtype == np.float32 and model.sizes == [3] * 3 + [4] * 3 and found.shape[1] == 21 + 2 == model.dim
    np.testing.assert_array_equal(model.predict_programs(one), model.encode_image(one)[:, 21:])
    assert not np.allclose(model.encode_image(both)[:36], expected[:36], atol=0.1)  # taken as one section


def test_expression_is_the_mean_of_the_clusters_by_probability(model):
    x = featured(seed=2)["table"].obsm["X_f"]
    logits = model.encode_image(x).astype(np.float64)
    expected, start = np.zeros((36, 20)), 0
    for size in model.sizes:
        p = np.exp(logits[:, start : start + size])
        expected += p / p.sum(1, keepdims=True) @ model._arrays["cluster_means"][start : start + size] / 6
        start += size
    found = model.predict_expression(x)
    np.testing.assert_allclose(found, expected + model._arrays["expression_mean"], rtol=1e-4)


def test_measured_programs_rebuild_what_they_are_made_of(model):
    activity = np.random.default_rng(0).uniform(0, 3, (7, 2))
    activity[0] = 0, 1
    np.testing.assert_allclose(model.measure_programs(activity @ model.loadings), activity, atol=1e-3)
    assert (model.measure_programs(-np.ones((1, 20))) == 0).all()
    assert (model.loadings >= 0).all()


def test_rows_without_features_stay_empty_and_change_no_other(model):
    x = featured(seed=2)["table"].obsm["X_f"].copy()
    x[3] = np.nan
    found = model.encode_image(x)
    assert np.isnan(found[3]).all() and np.isnan(model.predict_expression(x)[3]).all()
    np.testing.assert_array_equal(np.delete(found, 3, 0), model.encode_image(np.delete(x, 3, 0)))


def test_a_saved_model_is_the_same(model, tmp_path):
    model.save(tmp_path / "programs")
    again = ProgramModel.load(tmp_path / "programs")
    x = featured(seed=2)["table"].obsm["X_f"]
    assert again.id == model.id and again.config == model.config and again.genes == model.genes
    np.testing.assert_array_equal(again.encode_image(x), model.encode_image(x))
    np.testing.assert_array_equal(again.predict_expression(x), model.predict_expression(x))
    assert again.history.equals(model.history) and again.facts == model.facts
    card = (tmp_path / "programs" / "README.md").read_text()
    assert 'sp.models.ProgramModel.load("this directory")' in card and "20 genes" in card


def test_other_and_damaged_folders_are_refused(model, tmp_path):
    model.save(tmp_path / "programs")
    with pytest.raises(ValueError, match=r"sp\.models\.ProgramModel\.load reads it"):
        sp.models.SpadeModel.load(tmp_path / "programs")
    (tmp_path / "programs" / "checksums.json").unlink()
    edit(tmp_path / "programs", lambda description: description["config"].update(seed=3))
    with pytest.raises(ValueError, match="cannot be read as a model"):
        ProgramModel.load(tmp_path / "programs")


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(ValueError, match=r"features has shape \(3, 5\); this model was trained on width 8"):
        model.encode_image(np.ones((3, 5)))
    with pytest.raises(ValueError, match=r"section has shape \(2,\); expected one name per row, \(3,\)"):
        model.encode_image(np.ones((3, 8)), ["a", "b"])
