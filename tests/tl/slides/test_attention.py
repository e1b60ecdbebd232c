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


# --- classes, grades and numbers

AGES, LEVELS = (40, 51, 62), ("low", "mid", "high")


def told(samples):
    """Slides whose age, grade and level the mean of a feature tells; the last one has none."""
    for i, sample in enumerate(samples):
        table, known = sample["table"], i < len(samples) - 1
        table.obsm["X_f"][:, 2] += 3 * (i % 3)
        table.obs["age"] = float(AGES[i % 3]) if known else np.nan
        table.obs["grade"] = i % 3 if known else None
        level = [LEVELS[i % 3] if known else None] * table.n_obs
        table.obs["level"] = pd.Categorical(level, LEVELS, ordered=True)
    return samples


@pytest.mark.parametrize("label_key", ["age", "grade"])
def test_numbers_may_be_classes_grades_or_amounts(twelve, label_key):
    message = f"label_key='{label_key}' holds numbers .* may be classes, grades or amounts. Say which with target="
    for options in ({}, {"target": "auto"}):
        with pytest.raises(ValueError, match=message):
            sp.tl.attention(told(twelve), label_key=label_key, use_rep="X_f", **FAST, **options)
    slides = sp.tl.attention(twelve, label_key=label_key, target="classes", use_rep="X_f", **FAST)
    names = [f"probability_{one}" for one in (AGES if label_key == "age" else range(3))]
    assert list(slides) == ["slide", "label", "predicted", *names]
    assert slides["label"].tolist()[-2:] == [names[10 % 3].removeprefix("probability_"), ""]


def test_attention_of_numbers(twelve, caplog):
    caplog.set_level("INFO", "spade")
    options = {"label_key": "age", "target": "continuous", "use_rep": "X_f", **FAST, "n_epochs": 60, "inner_val": 0}
    slides = sp.tl.attention(told(twelve), **options)
    assert "1 of 12 slides have no label and are not trained on" in caplog.text
    _, of_task = sp.tl.slide_task(twelve[:11], **options, head="abmil", n_folds=2, return_predictions=True)
    assert list(slides) == [name for name in of_task if name in ("slide", "label", "predicted")]
    assert slides["label"][:11].tolist() == [AGES[i % 3] for i in range(11)] and np.isnan(slides["label"][11])
    assert slides["predicted"].dtype == np.float64
    assert np.corrcoef(slides["predicted"], [AGES[i % 3] for i in range(12)])[0, 1] > 0.9
    assert slides["predicted"].between(25, 77).all()
    for sample, predicted in zip(twelve, slides["predicted"], strict=True):
        obs = sample["table"].obs
        assert obs["age_attention_predicted"].tolist() == [predicted] * 36
        assert obs["age_attention"].sum() == pytest.approx(1, abs=1e-5)
        assert sample["table"].uns["spade"]["age_attention"]["target"] == "continuous"


@pytest.mark.parametrize("loss", ["cumulative", "cross_entropy"])
@pytest.mark.parametrize("label_key", ["grade", "level"])
def test_attention_of_grades(twelve, label_key, loss):
    options = {"label_key": label_key, "target": "ordinal", "use_rep": "X_f", **FAST, "n_epochs": 60, "inner_val": 0}
    slides = sp.tl.attention(told(twelve), loss=loss, **options)
    grades = list(LEVELS) if label_key == "level" else ["0", "1", "2"]
    columns = [f"probability_{name}" for name in grades]
    assert list(slides) == ["slide", "label", "predicted", *columns]
    assert slides["label"].tolist() == [*(grades[i % 3] for i in range(11)), ""]
    p = slides[columns].to_numpy()
    np.testing.assert_allclose(p.sum(1), 1)
    # the median is the first grade that the target does not exceed with a probability of one half
    median = [next(k for k in range(3) if row[: k + 1].sum() >= 0.5) for row in p]
    expected = median if loss == "cumulative" else p.argmax(1)
    assert slides["predicted"].tolist() == [grades[k] for k in expected]
    assert sum(slides["predicted"] == [grades[i % 3] for i in range(12)]) >= 9
    column = twelve[0]["table"].obs[f"{label_key}_attention_predicted"]
    assert column.cat.categories.tolist() == grades


def test_numbers_of_files_and_stores(files, tmp_path):
    folder, labels = files
    labels["age"] = [40.5 + i for i in range(12)]
    options = {
        "label_key": "age",
        "target": "continuous",
        "labels": labels,
        **FAST,
        "n_epochs": 1,
        "out": tmp_path / "a",
    }
    assert list(sp.tl.attention(folder, **options)) == ["slide", "label", "predicted"]
    # other numbers are another task, whose files are not taken for those of this one
    with pytest.raises(ValueError, match="was not written by this call"):
        sp.tl.attention(folder, **{**options, "labels": labels.assign(age=labels["age"][::-1].to_numpy())})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "numbers"}, "target='numbers': expected one of 'auto', 'classes', 'ordinal', 'continuous'"),
        ({"target": "continuous", "preset": "paper"}, "preset='paper': presets are of heads that learn classes or"),
        ({"target": "continuous", "class_weights": True}, "class_weights=True: target='continuous' has no classes"),
        ({"target": "continuous", "loss": "cross_entropy"}, "loss='cross_entropy': expected 'squared' for"),
        ({"target": "ordinal", "label_key": "kind"}, "label_key='kind': 'a', 'b' have no order"),
    ],
)
def test_targets_and_settings_that_do_not_go_together(twelve, options, said):
    with pytest.raises(ValueError, match=said):
        sp.tl.attention(told(twelve), **{"label_key": "age", "use_rep": "X_f", **FAST, **options})


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
