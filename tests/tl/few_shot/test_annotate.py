"""A few labels become labels of all spots."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.sections import spoil
from spatialdata import read_zarr

import spade as sp


def test_a_few_labels_become_labels_of_all(four):
    truth = [sample["table"].obs["kind"].astype(str).to_numpy() for sample in four]
    for sample in four[1:]:
        del sample["table"].obs["kind"]
    obs = four[0]["table"].obs
    obs["kind"] = obs["kind"].where(np.arange(36) < 18)
    spoil(four[3], "X_f", [5])
    sp.tl.annotate(four, label_key="kind", use_rep="X_f")
    for sample, wanted in zip(four, truth, strict=True):
        table = sample["table"]
        known = table.obs["kind_predicted"].notna().to_numpy()
        assert (~known).sum() == (1 if sample is four[3] else 0)
        assert np.mean(table.obs["kind_predicted"].astype(str)[known] == wanted[known]) > 0.75
        probability = table.obsm["kind_predicted_probability"]
        assert probability.dtype == np.float32
        np.testing.assert_allclose(probability[known].sum(1), 1, atol=1e-5)
        assert np.isnan(probability[~known]).all()
        uncertainty = table.obs["kind_predicted_uncertainty"].to_numpy()
        assert ((uncertainty[known] >= 0) & (uncertainty[known] <= 1 + 1e-6)).all()
        right = table.obs["kind_predicted"].astype(str).to_numpy() == wanted
        if (~right & known).sum() > 3:
            assert uncertainty[right & known].mean() < uncertainty[~right & known].mean()
    assert list(four[1]["table"].obs["kind_predicted"].cat.categories) == ["a", "b", "c"]


def test_annotation_keeps_colours_and_stores(four, tmp_path):
    path = tmp_path / "s0.zarr"
    four[0]["table"].uns["kind_colors"] = np.array(["#111111", "#222222", "#333333"])
    sp.io.write(four[0], path)
    sp.tl.annotate(
        path, label_key="kind", use_rep=("X_f", "X_noise"), classifier="centroid", scaling="support", key_added="mine"
    )
    table = read_zarr(path)["table"]
    assert table.uns["mine_colors"].tolist() == ["#111111", "#222222", "#333333"]
    assert table.uns["spade"]["mine"]["n_labels"] == 36
    assert table.obs["mine"].notna().all()


def test_annotation_writes_nothing_unless_all_can_be_written(four):
    spoil(four[1], "X_f", slice(None))
    del four[1]["table"].obs["kind"]
    sp.tl.annotate(four[:2], label_key="kind", use_rep="X_f")
    assert four[1]["table"].obs["kind_predicted"].isna().all()
    with pytest.raises(ValueError, match="key_added='kind' would replace the labels"):
        sp.tl.annotate(four, label_key="kind", use_rep="X_f", key_added="kind")
    for sample in four:
        sample["table"].obs["a_uncertainty"] = sample["table"].obs.get("kind", "")
        sample["table"].obsm["b_probability"] = sample["table"].obsm["X_f"]
    with pytest.raises(ValueError, match=r"key_added='a' would replace the labels obs\['a_uncertainty'\]"):
        sp.tl.annotate(four, label_key="a_uncertainty", use_rep="X_f", key_added="a")
    with pytest.raises(ValueError, match=r"key_added='b' would replace obsm\['b_probability'\], which use_rep= reads"):
        sp.tl.annotate(four, label_key="kind", use_rep=("X_f", "b_probability"), key_added="b")
    with pytest.raises(ValueError, match=r"s0: a label cannot be written as obs\['region'\]"):
        sp.tl.annotate(four, label_key="kind", use_rep="X_f", key_added="region")
    del four[3]["table"].obsm["X_f"]
    del four[3]["table"].obs["kind"]
    with pytest.raises(KeyError, match="s3: use_rep='X_f'"):
        sp.tl.annotate(four, label_key="kind", use_rep="X_f", key_added="again")
    assert "again" not in four[0]["table"].obs


def test_annotation_without_labels_or_with_several_representations(four):
    with pytest.raises(KeyError, match="label_key='tissue' is not in obs"):
        sp.tl.annotate(four, label_key="tissue", use_rep="X_f")
    with pytest.raises(TypeError, match="expected one representation"):
        sp.tl.annotate(four, label_key="kind", use_rep=["X_f", "X_noise"])
    four[1]["table"].obsm["X_f"] = four[1]["table"].obsm["X_f"][:, :4]
    del four[1]["table"].obs["kind"]
    with pytest.raises(ValueError, match="s1: use_rep='X_f' has 4 features, but 8 in the samples with labels"):
        sp.tl.annotate(four[:2], label_key="kind", use_rep="X_f")


def test_classes_of_two_samples_get_two_colours(four):
    for sdata, (one, other) in zip(four[:2], ("ab", "cd"), strict=True):
        table = sdata["table"]
        table.obs["site"] = pd.Categorical(np.where(np.arange(table.n_obs) % 2, one, other))
        table.uns["site_colors"] = np.array(["#111111", "#222222"])
    sp.tl.annotate(four[:2], label_key="site", use_rep="X_f")
    colours = four[0]["table"].uns["site_predicted_colors"].tolist()
    assert colours[:2] == ["#111111", "#222222"] and len(set(colours)) == 4


def test_no_name_replaces_results_of_another(four):
    options = {"label_key": "kind", "use_rep": "X_f"}
    sp.tl.annotate(four, **options)
    with pytest.raises(ValueError, match="key_added='kind_predicted_uncertainty' would replace"):
        sp.tl.annotate(four, **options, key_added="kind_predicted_uncertainty")
    sp.tl.annotate(four, **options)
