"""Attention of slide heads on the patches."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.sections import spoil
from helpers.slides import FAST, slide
from spatialdata import read_zarr

import spade as sp
from spade.core.evaluation.metrics import macro_auroc


@pytest.mark.parametrize("head", ["abmil", "transmil"])
def test_attention_is_written_and_sums_to_one(twelve, head):
    spoil(twelve[2], "X_f", [3])
    twelve[5]["table"].obs["kind"] = None
    del twelve[6]["table"].obs["kind"]
    slides = sp.tl.attention(twelve, label_key="kind", use_rep=("X_f", "X_noise"), head=head, **{**FAST, "n_epochs": 2})
    assert slides["slide"].tolist() == [f"s{i:02d}" for i in range(12)]
    assert slides["label"].tolist() == ["" if i in (5, 6) else "ab"[i % 2] for i in range(12)]
    np.testing.assert_allclose(slides[["probability_a", "probability_b"]].sum(1), 1)
    for i, sample in enumerate(twelve):
        obs = sample["table"].obs
        assert obs["kind_attention"].dtype == np.float32
        assert obs["kind_attention"].sum() == pytest.approx(1, abs=1e-5)
        assert obs["kind_attention"].isna().sum() == (i == 2)
        assert set(obs["kind_attention_predicted"].dropna()) == {slides["predicted"][i]}
        assert sample["table"].uns["spade"]["kind_attention"]["n_labels"] == 10


def test_attention_finds_the_planted_patches():
    samples = [slide(i) for i in range(40)]
    sp.tl.attention(samples, label_key="kind", use_rep="X_f", inner_val=0, **{**FAST, "n_epochs": 30})
    found = []
    for sample in samples[1::2]:
        obs = sample["table"].obs
        a = obs["kind_attention"].to_numpy()
        found.append(macro_auroc(obs["planted"].to_numpy().astype(int), np.stack([-a, a], 1)))
    assert np.mean(found) > 0.8


def test_attention_is_kept_in_stores_and_is_the_same_again(twelve, tmp_path):
    paths = [tmp_path / f"s{i:02d}.zarr" for i in range(4)]
    for sample, path in zip(twelve, paths, strict=False):
        sp.io.write(sample, path)
    options = {"label_key": "kind", "use_rep": "X_f", **FAST, "n_epochs": 2, "key_added": "mine"}
    of_paths = sp.tl.attention(paths, **options)
    pd.testing.assert_frame_equal(sp.tl.attention(twelve[:4], **options), of_paths)
    stored = read_zarr(paths[3])["table"].obs["mine"].to_numpy()
    np.testing.assert_array_equal(stored, twelve[3]["table"].obs["mine"].to_numpy())


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"head": "mean"}, ValueError, "head='mean': expected one of 'abmil', 'transmil'"),
        ({"head": ["abmil"]}, ValueError, r"head=\['abmil'\]: expected one of 'abmil'"),
        ({"use_rep": ["X_f", "X_noise"]}, TypeError, "expected one representation"),
        ({"label_key": "grade"}, KeyError, "s00: label_key='grade' is not in obs"),
    ],
)
def test_attention_that_there_is_not(twelve, options, error, said):
    with pytest.raises(error, match=said):
        sp.tl.attention(twelve, **{"label_key": "kind", "use_rep": "X_f", **FAST, **options})
