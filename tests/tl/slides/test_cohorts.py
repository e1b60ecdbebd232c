"""Heads of some cohorts, tested on others."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.sections import through_csv
from helpers.slides import means_of, quick, write_cohort
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import spade as sp


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("slides") / "features"


@pytest.fixture(scope="module")
def known(folder):
    return write_cohort(folder, 48, sites="AABC")


CLASS = {"label_key": "kind", "cohort_key": "site", "train_on": "A"}


def run(folder, labels, **options):
    return sp.tl.slide_task(folder, **quick({"labels": labels, "return_predictions": True} | options))


def test_heads_learn_all_slides_of_their_cohort_and_are_scored_by_site(folder, known):
    table, slides = run(folder, known, **CLASS, C=2, scaling="none", class_weights=False)
    x, y, site = means_of(folder), (known["kind"] == "b").to_numpy(), known["site"].to_numpy()
    model = LogisticRegression(C=2, max_iter=10_000, tol=1e-8).fit(x[site == "A"], y[site == "A"])
    external = slides[slides["evaluation"] == "external"]
    for name in "BC":
        own = external[external["cohort"] == name]
        p = model.predict_proba(x[site == name])[:, 1]
        assert own["slide"].tolist() == known["sample"][site == name].tolist()
        np.testing.assert_allclose(own["probability_b"], p, atol=1e-3)
        auroc = table[(table["unit"] == name) & (table["metric"] == "macro_auroc")].iloc[0]
        assert auroc["value"] == pytest.approx(roc_auc_score(y[site == name], p))
        assert auroc["low"] <= auroc["value"] <= auroc["high"]
        assert auroc[["evaluation", "cohort", "n_query"]].tolist() == ["external", name, 12]
    accuracy = table[(table["metric"] == "accuracy") & (table["evaluation"] == "external")]
    assert accuracy.groupby("cohort")["unit"].nunique().to_dict() == {"B": 6, "C": 6}


@pytest.mark.parametrize(
    "options",
    [
        {"label_key": "kind", "shots": (1, 2), "n_repeats": 2},
        {"label_key": "kind", "head": "abmil", "n_epochs": 1},
        {"label_key": "age", "target": "continuous"},
        {"label_key": "grade", "target": "ordinal"},
    ],
)
def test_the_cross_validated_part_is_that_of_the_training_cohort_alone(folder, known, options):
    table, slides = run(folder, known, **options, cohort_key="site", train_on=["A"], test_on=["C"])
    alone = known.assign(**{options["label_key"]: known[options["label_key"]].where(known["site"] == "A")})
    if options["label_key"] == "kind":
        expected = run(folder, alone, **options)
    else:
        with pytest.warns(UserWarning, match="24 of 48 slides have no value"):
            expected = run(folder, alone, **options)
    for found, other in zip((table, slides), expected, strict=True):
        inside = found[found["evaluation"] == "cross-validated"]
        assert set(inside["cohort"]) == {"A"}
        columns = [name for name in other if name not in ("low", "high")]
        pd.testing.assert_frame_equal(
            inside[columns].reset_index(drop=True), other[columns].reset_index(drop=True), check_dtype=False
        )
    assert set(table["cohort"]) == {"A", "C"}  # slides of B are not used


def test_a_shift_between_sites_is_seen(folder, known, tmp_path):
    import shutil

    import h5py

    shifted = tmp_path / "shifted"
    shutil.copytree(folder, shifted)
    for name in known["sample"][known["site"] == "C"]:
        with h5py.File(shifted / f"{name}.h5", "a") as file:
            file["features"][...] = file["features"][...] + np.float32(20)
    table, _ = run(shifted, known, label_key="age", target="continuous", cohort_key="site", train_on="A")
    r2 = table[table["metric"] == "r2"].groupby("cohort")["value"].mean()
    assert r2["A"] > 0.8
    assert r2["B"] > 0.8
    assert r2["C"] < 0


def test_summaries_are_by_cohort_with_intervals_over_patients(folder, known):
    table, _ = run(folder, known, **CLASS, head=["mean", "abmil"])
    summary = sp.tl.few_shot_summary(table, metric="macro_auroc", baseline="features, mean")
    places = summary[["evaluation", "cohort"]].drop_duplicates().values.tolist()
    assert places == [["cross-validated", "A"], ["external", "B"], ["external", "C"]]
    external = summary[summary["evaluation"] == "external"]
    assert (external["n_units"] == 1).all()
    assert external["low"].notna().all()
    accuracy = sp.tl.few_shot_summary(table, metric="accuracy", baseline="features, mean")
    assert accuracy.groupby("cohort")["n_units"].first().to_dict() == {"A": 12, "B": 6, "C": 6}
    own = table[table["cohort"] == "B"].drop(columns=["evaluation", "cohort"])
    alone = sp.tl.few_shot_summary(own, metric="accuracy", baseline="features, mean")
    shared = [name for name in alone if name != "p_corrected"]
    of_b = accuracy.loc[accuracy["cohort"] == "B", shared].reset_index(drop=True)
    pd.testing.assert_frame_equal(of_b, alone[shared])
    pd.testing.assert_frame_equal(sp.tl.few_shot_summary(through_csv(table)), sp.tl.few_shot_summary(table))


def test_plots_show_cohorts_side_by_side(folder, known):
    table, _ = run(folder, known, **CLASS, head=["mean", "abmil"], n_epochs=1)
    axes = sp.pl.few_shot(table)
    assert axes.shape == (2,)
    names = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert names[0] == "features, mean, A (cross-validated)"
    assert "features, abmil, C" in names
    assert sp.pl.few_shot(table[table["cohort"] == "B"]).shape == (3,)
    with pytest.raises(ValueError, match="baseline='features, mean': the table has several cohorts"):
        sp.pl.few_shot(table, baseline="features, mean")


def two_sites(known):
    return known.assign(site=known["site"].mask(known["sample"] == "s01", "B"))


def other_class(known):
    return known.assign(kind=known["kind"].mask(known["sample"] == "s04", "c"))


def one_value(known):
    in_b = known["site"] == "B"
    return known.assign(kind=known["kind"].mask(in_b, "a"), age=known["age"].mask(in_b, 50.0))


def one_slide(known):
    return known.assign(site=np.where(known["sample"] == "s46", "D", known["site"])).assign(patient=known["sample"])


def no_site(known):
    return known.assign(site=known["site"].mask(known["sample"] == "s05"))


AGE = {"label_key": "age", "target": "continuous"}


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (two_sites, {}, "cohort_key='site': patient 'p00' is in the cohorts 'A', 'B'"),
        (other_class, {}, "'c' occurs in 'B' but not in train_on='A', so no head can learn it"),
        (one_value, {}, "test_on='B' has 12 slides with a label, and all are 'a'"),
        (one_value, AGE, "test_on='B' has 12 slides with a label, and all are 50"),
        (one_slide, {}, "test_on='D' has 1 slide with a label"),
        (no_site, {}, "cohort_key='site' is missing for 1 slide with a label, such as 's05'"),
        (None, {"test_on": ["A", "B"]}, "test_on= and train_on= both name 'A'"),
        (None, {"train_on": "D"}, "train_on='D': no slide with a label is of this cohort; 'site' has 'A', 'B', 'C'"),
        (None, {"test_on": "D"}, "test_on='D': no slide"),
        (None, {"train_on": [*"ABC"]}, "is every cohort of 'site', so none is left to test on"),
        (None, {"train_on": None}, "cohort_key='site': name the cohorts to train on with train_on="),
        (None, {"cohort_key": None}, "train_on='A' names cohorts: name their column with cohort_key="),
        (None, {"cohort_key": None, "train_on": None, "test_on": "B"}, "test_on='B' names cohorts"),
        (None, {"train_on": []}, "train_on= is empty"),
        (None, {"n_folds": 13}, "n_folds=13: there are 12 patients"),
    ],
)
def test_cohorts_that_cannot_be_used(folder, known, change, options, said):
    with pytest.raises(ValueError, match=said):
        run(folder, known if change is None else change(known), **CLASS | options)


def test_labels_and_slides_must_match(folder, known):
    with pytest.raises(KeyError, match="there is no row for 's47'"):
        run(folder, known.iloc[:-1], **CLASS)
    more = pd.concat([known, known.tail(1).assign(sample="s99")])
    with pytest.raises(KeyError, match="'s99' are not slides"):
        run(folder, more, **CLASS)
    with pytest.raises(KeyError, match="cohort_key='hospital' is not a column"):
        run(folder, known, **CLASS | {"cohort_key": "hospital"})
