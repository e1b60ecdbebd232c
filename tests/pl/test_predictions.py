"""Confusion matrices and ROC curves of few-shot and slide tasks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.few_shot import labelled, run
from helpers.sections import featured, through_csv

import spade as sp


@pytest.fixture(scope="module")
def few():
    samples = [labelled(f"s{i}", i) for i in range(3)]
    for sample in samples:
        sample["table"].obsm["X_f"][:5] += 4
    return run(samples, use_rep=["X_f", "X_noise"], groupby="patient", n_repeats=3, return_predictions=True)


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_rows_are_true_and_columns_predicted(few):
    _, predictions = few
    axes = sp.pl.confusion(predictions)
    assert [ax.get_title(loc="left") for ax in axes] == ["X_f, 4 shots", "X_noise, 4 shots"]
    own = predictions[(predictions["representation"] == "X_f") & (predictions["shots"] == 4)]
    counts = pd.crosstab(own["label"], own["predicted"]).to_numpy()
    (ax, _), totals = axes, counts.sum(1)
    np.testing.assert_allclose(ax.images[0].get_array(), counts / totals[:, None])
    assert [one.get_text() for one in ax.get_yticklabels()] == [
        f"{k} ({n})" for k, n in zip("abc", totals, strict=True)
    ]
    assert [one.get_text() for one in ax.get_xticklabels()] == ["a", "b", "c"]
    assert [text.get_text() for text in ax.texts] == [f"{x:.2f}" for x in (counts / totals[:, None]).ravel()]
    (plain, _) = sp.pl.confusion(predictions, normalize=False, shots=4)
    np.testing.assert_array_equal(plain.images[0].get_array(), counts)


def test_curves_have_the_areas_of_the_scores(few):
    scores, predictions = few
    for ax, name in zip(sp.pl.roc(predictions, shots=1), ("X_f", "X_noise"), strict=True):
        own = scores[(scores["representation"] == name) & (scores["shots"] == 1) & (scores["metric"] == "macro_auroc")]
        areas = [float(text.rsplit(" ", 1)[1]) for text in legend(ax)]
        assert [text.split(":")[0] for text in legend(ax)] == ["a", "b", "c"]
        assert np.mean(areas) == pytest.approx(own["value"].mean(), abs=0.01)
        for line, area in zip(ax.lines[:3], areas, strict=True):
            x, y = line.get_data()
            assert (x[0], x[-1], y[0], y[-1]) == (0, 1, 0, 1)
            assert (np.diff(y) >= -1e-12).all()
            assert np.mean((y[1:] + y[:-1]) / 2) == pytest.approx(area, abs=0.03)


def test_two_classes_have_one_curve_and_cohorts_a_panel_each():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 80)
    p = np.clip(0.3 * truth + rng.uniform(0, 0.7, 80), 0, 1)
    facts = {"representation": "uni", "classifier": "mean", "shots": 0, "repeat": 0, "unit": "0"}
    table = pd.DataFrame(
        {"label": truth, "predicted": (p > 0.5).astype(int), "probability_0": 1 - p, "probability_1": p}
    ).assign(**facts)
    (ax,) = sp.pl.roc(table)
    assert len(legend(ax)) == 1
    assert legend(ax)[0].startswith("1: AUROC 0.")
    assert ax.get_title(loc="left") == "uni, all labels"
    cohorts = pd.concat(
        [table.assign(evaluation="cross-validated", cohort="A"), table.assign(evaluation="external", cohort="B")]
    )
    assert [ax.get_title(loc="left") for ax in sp.pl.confusion(through_csv(cohorts))] == [
        "A (cross-validated), all labels", "B, all labels",
    ]  # fmt: skip
    alike = table.assign(label=1)
    assert legend(sp.pl.roc(alike)[0]) == ["1: not measured"]


def test_slides_are_drawn_as_spots_are():
    slides = [featured(name=f"p{i}", seed=i) for i in range(8)]
    labels = pd.DataFrame({"sample": [f"p{i}" for i in range(8)], "kind": list("ab") * 4})
    scores, predictions = sp.tl.slide_task(
        slides, label_key="kind", use_rep="X_f", labels=labels, groupby=None, n_folds=2, return_predictions=True
    )
    (ax,) = sp.pl.confusion(predictions)
    assert [one.get_text() for one in ax.get_yticklabels()] == ["a (4)", "b (4)"]
    recall = scores[scores["metric"] == "recall"].groupby("label")["value"].mean()  # folds are equally large
    np.testing.assert_allclose(np.diag(ax.images[0].get_array()), recall)
    area = scores.loc[scores["metric"] == "macro_auroc", "value"].mean()
    assert legend(sp.pl.roc(predictions)[0]) == [f"b: AUROC {area:.2f}"]


def test_other_tables_are_refused(few):
    scores, predictions = few
    with pytest.raises(ValueError, match=r"table lacks 'predicted'.*return_predictions=True"):
        sp.pl.roc(scores)
    with pytest.raises(TypeError, match=r"got tuple; expected what .*return_predictions=True \(the second table\)"):
        sp.pl.confusion(few)
    with pytest.raises(KeyError, match=r"shots=8 is not in the table; shots: 1, 4"):
        sp.pl.confusion(predictions, shots=8)
    numbers = predictions.drop(columns=[name for name in predictions if name.startswith("probability_")])
    with pytest.raises(ValueError, match="it has no probabilities of classes"):
        sp.pl.roc(numbers)
