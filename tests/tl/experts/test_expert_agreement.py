"""How far experts agree with labels, against scikit-learn."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from helpers.sections import made_of, with_experts
from sklearn import metrics

import spade as sp


def test_agreement_is_that_of_sklearn_per_section_and_overall(caplog):
    rng = np.random.default_rng(0)
    samples = []
    for name in ("a", "b"):
        labels = rng.choice(["x", "y", "z"], 40).astype(object)
        experts = np.where(rng.random(40) < 0.7, np.select([labels == "x", labels == "y"], ["0", "1"], "2"), "3")
        samples.append(made_of(name, labels, experts.tolist()))
    samples[0]["table"].obs.loc[samples[0]["table"].obs_names[:3], "area"] = None
    with_experts(samples[1], ["", *samples[1]["table"].obs["spade_expert"].astype(str)[1:]])
    with caplog.at_level(logging.INFO, logger="spade"):
        found = sp.tl.expert_agreement(samples, label_key="area").set_index("section")
    assert "of 80 spots are left out: 3 without label, 1 without expert" in caplog.text
    assert found.index.tolist() == ["a", "b", "all_sections"]
    assert found["n"].tolist() == [37, 39, 76]
    assert found["n_without_label"].tolist() == [3, 0, 3]
    assert found["n_without_expert"].tolist() == [0, 1, 1]
    frames = [s["table"].obs[["area", "spade_expert"]].dropna().astype(str) for s in samples]
    for name, frame in zip(found.index, [*frames, pd.concat(frames)], strict=True):
        truth, experts = frame["area"], frame["spade_expert"]
        row = found.loc[name]
        assert row["adjusted_rand"] == pytest.approx(metrics.adjusted_rand_score(truth, experts))
        assert row["adjusted_mutual_info"] == pytest.approx(metrics.adjusted_mutual_info_score(truth, experts))
        assert row["normalized_mutual_info"] == pytest.approx(metrics.normalized_mutual_info_score(truth, experts))
        assert row["homogeneity"] == pytest.approx(metrics.homogeneity_score(truth, experts))
        assert row["completeness"] == pytest.approx(metrics.completeness_score(truth, experts))


def test_the_same_division_is_one_and_a_finer_one_is_homogeneous():
    measures = ["adjusted_rand", "adjusted_mutual_info", "normalized_mutual_info", "homogeneity", "completeness"]
    same = sp.tl.expert_agreement(made_of("a", list("xyz" * 6), list("102" * 6)), label_key="area")
    np.testing.assert_allclose(same[measures], 1)
    finer = sp.tl.expert_agreement(made_of("a", list("xxy" * 6), list("012" * 6)), label_key="area").iloc[-1]
    assert finer["homogeneity"] == pytest.approx(1)
    assert finer["completeness"] < 1
    one = sp.tl.expert_agreement(made_of("a", list("xy" * 6), list("0" * 12)), label_key="area").iloc[-1]
    assert (one["adjusted_rand"], one["homogeneity"], one["n_experts"]) == (0, 0, 1)


def test_a_section_of_one_label_has_nothing_to_agree_with():
    samples = [made_of("a", "x", list("01" * 5)), made_of("b", list("xy" * 5), list("01" * 5))]
    found = sp.tl.expert_agreement(samples, label_key="area").set_index("section")
    assert np.isnan(found.loc["a", "adjusted_rand"])
    assert found.loc["b", "adjusted_rand"] == 1
    assert found.loc["all_sections", "n"] == 20
    with pytest.raises(
        ValueError, match=r"label_key='area': the 10 spots with label and expert have 1 different label \(x\)"
    ):
        sp.tl.expert_agreement(samples[0], label_key="area")
    with pytest.raises(KeyError, match=r"a: label_key='zone' is not in obs"):
        sp.tl.expert_agreement(samples, label_key="zone")
    samples[0]["table"].obs["area"] = pd.Categorical([None] * 10, categories=["x"])
    assert sp.tl.expert_agreement(samples, label_key="area")["n"].tolist() == [0, 10, 10]
