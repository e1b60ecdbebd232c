"""Retrieval counts the rows asked for and says what chance gives."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.sections import GENES, cohort, featured, spoil
from scipy.sparse import csr_matrix

import spade as sp


def test_retrieval_counts_the_rows_asked_for_and_says_chance(model):
    samples = cohort()
    spoil(samples[0], "X_f", [0])
    for sample in samples:
        sample["table"].obs["fold"] = ["train", "test", "test"] * 12
    everything = sp.tl.retrieval_metrics(samples, model, k=5)
    assert everything["n"].tolist() == [71] * 8
    held_out = sp.tl.retrieval_metrics(samples, model, k=5, split_key="fold")
    assert held_out["n"].tolist() == [48] * 8
    overall = held_out[held_out["gallery"] == "all_spots"]
    np.testing.assert_allclose(overall["chance_recall"], 5 / 48)
    np.testing.assert_allclose(overall["chance_rank"], 24.5)
    within = held_out[held_out["gallery"] == "same_section"]
    np.testing.assert_allclose(within["chance_recall"], 5 / 24)
    np.testing.assert_allclose(within["chance_rank"], 12.5)
    assert (held_out["recall"].between(0, 1) & held_out["median_rank"].between(1, 48)).all()
    assert "X_spade" not in samples[0]["table"].obsm


def test_several_k_are_rows_of_one_table(model):
    samples = cohort()
    table = sp.tl.retrieval_metrics(samples, model, k=[10, 1, 3])
    assert table["k"].tolist() == [1, 3, 10] * 8
    assert table.groupby(["direction", "gallery"])["recall"].is_monotonic_increasing.all()
    alone = sp.tl.retrieval_metrics(samples, model, k=3)
    pd.testing.assert_frame_equal(table[table["k"] == 3].reset_index(drop=True), alone)


def test_retrieval_routes_each_modality_by_itself(model):
    """Expression of other spots cannot profit from the image: with constant expression every rank is chance."""
    samples = cohort()
    for sample in samples:
        sample["table"].X = csr_matrix(np.ones((36, 60), np.float32))
    metrics = sp.tl.retrieval_metrics(samples, model, k=5)
    np.testing.assert_allclose(metrics["median_rank"], metrics["chance_rank"], atol=1.5)
    assert (metrics["recall"] <= metrics["chance_recall"] + 0.01).all()  # ties count against it


@pytest.mark.parametrize(
    ("samples", "options", "error", "said"),
    [
        (cohort, {"k": 0}, ValueError, r"k=0: expected a whole number of at least 1"),
        (cohort, {"split_key": "fold"}, KeyError, r"split_key='fold' is not in obs"),
        (
            cohort,
            {"split_key": "organ", "part": "x"},
            ValueError,
            r"no spot with obs\['organ'\] == 'x' has a valid patch",
        ),
        (lambda: featured(genes=GENES[5:]), {}, ValueError, r"tiny: lacks 5 of the model's 20 genes"),
        (lambda: featured(genes=()), {}, ValueError, r"tiny: has no expression"),
        (lambda: featured(width=5), {}, ValueError, r"has 5 features, but the model reads 8"),
    ],
)
def test_retrieval_says_what_it_needs(model, samples, options, error, said):
    with pytest.raises(error, match=said):
        sp.tl.retrieval_metrics(samples(), model, **options)
