"""Tasks run on folders of features in the layout of TRIDENT, with labels in the data set's own table."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from helpers.slides import write_h5

import spade as sp
from spade.tasks._records import METRICS

OURS = "this run"


def write_features(folder, levels, seed=0, width=4):
    """One file per slide, whose first feature is its level."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for name, level in levels.items():
        x = rng.normal(size=(7, width)).astype(np.float32)
        x[:, 0] = level + 0.05 * x[:, 0]
        write_h5(folder / f"{name}.h5", x, three=True)
    return folder


def grades(n=60, n_grades=6):
    return pd.DataFrame({"image_id": [f"s{i:03d}" for i in range(n)], "isup_grade": np.arange(n) % n_grades})


def splits(n, column, codes, folds, n_patients=None):
    """A split table of Patho-Bench; two slides of a patient follow each other."""
    patients = np.arange(n) // (n // (n_patients or n))
    table = pd.DataFrame({"case_id": [f"c{p}" for p in patients], "slide_id": [f"s{i:03d}" for i in range(n)]})
    table[column] = codes(patients)
    for number, tested in enumerate(folds):
        table[f"fold_{number}"] = np.where(tested(patients), "test", "train")
    return table


def ours(result):
    return result[result["source"] == OURS].reset_index(drop=True)


@pytest.fixture(scope="module")
def panda(tmp_path_factory):
    """Features of 60 graded slides below a job folder, and the data set's table, which lists more of them."""
    job = tmp_path_factory.mktemp("trident")
    table = grades(72)
    levels = dict(zip(table["image_id"][:60], table["isup_grade"], strict=False))
    folder = write_features(job / "20x_256px_0px_overlap" / "features_uni_v1", levels)
    table.to_csv(job / "train.csv", index=False)
    return folder, job / "train.csv"


def test_published_tables_list_more_slides_than_there_are(panda, caplog):
    folder, path = panda
    task = sp.tasks.get("panda")
    message = (
        r"panda: 12 slides with a label but no features \('s060', 's061', 's062', …\); pass subset=True to use the 60 "
        "slides that have both"
    )
    with pytest.raises(ValueError, match=message):
        task.run(folder, path)
    with caplog.at_level(logging.INFO, logger="spade"):
        result, scores = task.run(folder, path, subset=True, return_scores=True)
    assert "12 slides with a label but no features" in caplog.text and "no patients are known" in caplog.text
    assert len(ours(result)) == len(result) == 1 and result["metric"][0] == "macro_auroc"
    assert result["value"][0] > 0.85
    assert scores[scores["metric"] == "macro_auroc"]["unit"].nunique() == task.protocol.folds == 5


def test_grades_are_ordered_for_a_metric_that_knows_an_order(panda):
    folder, path = panda
    result, scores = sp.tasks.get("panda").run(folder, path, subset=True, metric="quadratic_kappa", return_scores=True)
    assert ours(result)["value"][0] > 0.95
    assert {"mae", "quadratic_kappa"} <= set(scores["metric"])
    with pytest.raises(ValueError, match="metric="):
        sp.tasks.get("panda").run(folder, path, subset=True, metric="c_index")


def test_slides_without_a_label_are_counted_and_named(panda):
    folder, _ = panda
    with pytest.raises(ValueError, match=r"2 slides with features but no label \('s058', 's059'\); pass subset=True"):
        sp.tasks.get("panda").run(folder, grades(58))
    with pytest.raises(ValueError, match=r"no slide has both.*named as their feature files, without suffix"):
        sp.tasks.get("panda").run(folder, grades(58).assign(image_id=lambda t: t["image_id"] + ".tiff"))


def test_classes_that_no_slide_has_are_an_error(panda):
    folder, _ = panda
    few = grades(60)
    few["isup_grade"] = few["isup_grade"].clip(upper=3)
    with pytest.raises(ValueError, match="panda: none of the 60 slides is of class '4', '5'"):
        sp.tasks.get("panda").run(folder, few)
    own = few.rename(columns={"image_id": "sample", "isup_grade": "label"})
    with pytest.raises(ValueError, match=r"camelyon16: the 60 slides have 4 classes, .* but the task has 3"):
        sp.tasks.get("camelyon16").run(folder, own)


def test_a_single_split_is_scored_on_its_test_slides_beside_the_published_figures(tmp_path):
    table = splits(120, "isup_grade", lambda p: p % 6, [lambda p: p >= 90])
    levels = dict(zip(table["slide_id"], table["isup_grade"], strict=True))
    write_features(tmp_path / "good", levels)
    write_features(tmp_path / "noise", dict.fromkeys(levels, 0), seed=1)
    task = sp.tasks.get("panda/isup_grade")
    result, scores = task.run({name: tmp_path / name for name in ("good", "noise")}, table, return_scores=True)
    mine = ours(result).set_index("encoder")
    assert mine.loc["good", "value"] > 0.95 > 0.5 > mine.loc["noise", "value"]
    assert (mine["low"] <= mine["value"]).all() and (mine["value"] <= mine["high"]).all()
    tested = scores[scores["metric"] == "quadratic_kappa"]
    assert tested["n_query"].eq(30).all() and tested["unit"].eq("fold_0").all()
    published = result[result["source"] != OURS]
    assert published["encoder"].tolist() == task.figures["encoder"].tolist()
    assert published["value"].tolist() == task.figures["value"].tolist()
    assert published["source"].str.contains("THREADS").all() and (published["where"] == "Extended Data Table 14").all()


def test_folds_that_test_every_slide_once_are_folds(tmp_path):
    folds = [lambda p, f=f: p % 5 == f for f in range(5)]
    table = splits(80, "BAP1_mutation", lambda p: (p // 5) % 2, folds, n_patients=40)
    rng = np.random.default_rng(0)
    levels = {s: y + rng.normal() for s, y in zip(table["slide_id"], table["BAP1_mutation"], strict=True)}
    folder = write_features(tmp_path / "features", levels)
    result, scores = sp.tasks.get("mut-het-rcc/BAP1_mutation").run(folder, table, return_scores=True)
    labels = table.rename(columns={"slide_id": "sample", "case_id": "patient", "BAP1_mutation": "kind"})
    labels["kind"] = labels["kind"].map({0: "no", 1: "yes"})
    labels["fold"] = (labels["patient"].str[1:].astype(int) % 5).astype(str)
    direct = sp.tl.slide_task(folder, labels=labels, label_key="kind", fold_key="fold", unit="patient")
    aurocs = direct[direct["metric"] == "macro_auroc"]["value"]
    assert ours(result)["value"][0] == pytest.approx(aurocs.mean()) and 0.5 < aurocs.mean() < 1
    assert sorted(scores[scores["metric"] == "macro_auroc"]["value"]) == pytest.approx(sorted(aurocs))


def test_splits_that_overlap_are_trained_and_tested_one_by_one(tmp_path):
    folds = [lambda p, f=f: (7 * p + 5 * f) % 40 < 12 for f in range(3)]
    table = splits(40, "TP53_mutation", lambda p: p % 2, folds)
    rng = np.random.default_rng(0)
    levels = {s: y + 2 * rng.normal() for s, y in zip(table["slide_id"], table["TP53_mutation"], strict=True)}
    folder = write_features(tmp_path / "features", levels)
    result, scores = sp.tasks.get("cptac_gbm/TP53_mutation").run(folder, table, return_scores=True)
    aurocs = scores[scores["metric"] == "macro_auroc"].set_index("unit")
    assert aurocs.index.tolist() == ["fold_0", "fold_1", "fold_2"]
    assert aurocs["n_query"].tolist() == [(table[f"fold_{f}"] == "test").sum() for f in range(3)]
    assert ours(result)["value"][0] == pytest.approx(aurocs["value"].mean())
    # labels of test slides are never learned: turned round, the same heads score the complement
    trained = table["fold_0"] == "train"
    turned = table.assign(TP53_mutation=table["TP53_mutation"].where(trained, 1 - table["TP53_mutation"]))
    columns = ["case_id", "slide_id", "TP53_mutation", "fold_0"]
    other = sp.tasks.get("cptac_gbm/TP53_mutation").run(folder, turned[columns])
    assert ours(other)["value"][0] == pytest.approx(1 - aurocs.loc["fold_0", "value"])


def test_without_folds_of_the_task_they_have_to_be_asked_for(tmp_path):
    table = splits(40, "TP53_mutation", lambda p: p % 2, [])
    folder = write_features(tmp_path, dict(zip(table["slide_id"], table["TP53_mutation"], strict=True)))
    with pytest.raises(ValueError, match=r"no columns fold_0, … with the folds of the task\. Pass n_folds="):
        sp.tasks.get("cptac_gbm/TP53_mutation").run(folder, table)
    result, scores = sp.tasks.get("cptac_gbm/TP53_mutation").run(folder, table, n_folds=3, return_scores=True)
    assert scores[scores["metric"] == "macro_auroc"]["unit"].nunique() == 3 and ours(result)["value"][0] == 1


def test_patients_stay_in_one_fold_and_shots_are_drawn(tmp_path):
    n = 90
    names = [f"{i}" for i in range(n)]
    classes = np.array(["CC", "EC", "HGSC", "LGSC", "MC"])[np.arange(n) // 2 % 5]
    folder = write_features(tmp_path, dict.fromkeys(names, 0), width=60)
    own = pd.DataFrame({"sample": names, "label": classes, "patient": [f"p{i // 2}" for i in range(n)]})
    for i, name in enumerate(names):  # a patient's two slides are alike, and tell nothing of the class
        x = np.random.default_rng(i // 2).normal(size=(5, 60)).astype(np.float32)
        write_h5(folder / f"{name}.h5", x)
    result = sp.tasks.get("ubc_ocean").run(folder, own, shots=[1, 8], n_repeats=2)
    assert result["shots"].tolist() == [1, 8] and (result["value"] < 0.75).all()
    alone = sp.tasks.get("ubc_ocean").run(folder, own.drop(columns="patient"))
    assert alone["value"][0] > 0.8  # what a leak between patients would give


def test_survival_beside_the_published_figures(tmp_path):
    rng = np.random.default_rng(0)
    risk = rng.normal(size=60)
    table = splits(120, "OS", lambda p: p * 0, [lambda p, f=f: p % 3 == f for f in range(3)], n_patients=60)
    patient = table["case_id"].str[1:].astype(int).to_numpy()
    table["OS_event"] = (patient % 4 > 0).astype(int)
    table["OS_days"] = np.round(1000 * np.exp(-risk[patient])) + 1
    folder = write_features(tmp_path, dict(zip(table["slide_id"], risk[patient], strict=True)))
    task = sp.tasks.get("cptac_pda/OS")
    result, scores = task.run(folder, table, return_scores=True, loss="cox")
    assert ours(result)["value"][0] > 0.9 and len(result) == 1 + len(task.published)
    assert ours(result)["value"][0] == sp.tl.survival_summary(scores)["c_index"][0]
    assert scores.groupby("patient")["fold"].nunique().eq(1).all() and scores["fold"].nunique() == 3
    with pytest.raises(ValueError, match="do not test every slide once"):
        task.run(folder, table.drop(columns=["fold_1", "fold_2"]))
    with pytest.raises(ValueError, match=r"shots=2: cptac_pda/OS is a task of survival"):
        task.run(folder, table, shots=2)
    with pytest.raises(ValueError, match="metric="):
        task.run(folder, table, metric="macro_auroc")


def test_labels_of_your_own_where_the_rule_is_unknown(tmp_path):
    names = [f"TCGA-{i}" for i in range(30)]
    folder = write_features(tmp_path / "features", {s: i % 2 for i, s in enumerate(names)})
    own = pd.DataFrame({"sample": names, "label": ["ILC" if i % 2 else "IDC" for i in range(30)]})
    result = sp.tasks.get("tcga_brca").run(folder, own)
    assert result["value"].tolist() == [1]
    own.to_csv(tmp_path / "own.csv", index=False)
    pd.testing.assert_frame_equal(sp.tasks.get("tcga_brca").run(folder, tmp_path / "own.csv"), result)
    with pytest.raises(ValueError, match="tcga_brca: which columns hold the labels is unknown"):
        sp.tasks.get("tcga_brca").run(folder, own.rename(columns={"sample": "Case ID"}))


@pytest.mark.parametrize("argument", ["label_key", "groupby", "fold_key", "target", "labels_of", "return_predictions"])
def test_settings_that_follow_from_the_task_are_refused(panda, argument):
    folder, path = panda
    with pytest.raises(TypeError, match=argument):
        sp.tasks.get("panda").run(folder, path, subset=True, **{argument: "x"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": "yes"}, "subset="), ({"return_scores": 1}, "return_scores="), ({"shots": 0}, "shots="),
        ({"n_folds": 1}, "n_folds="), ({"n_repeats": 0}, "n_repeats="), ({"head": "median"}, "head"),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense(panda, options, message):
    folder, path = panda
    with pytest.raises(ValueError, match=message):
        sp.tasks.get("panda").run(folder, path, **{"subset": True, **options})


def test_metrics_are_those_that_the_functions_give(panda):
    folder, path = panda
    for metric in (*METRICS["ordinal"], *METRICS["classes"]):
        assert ours(sp.tasks.get("panda").run(folder, path, subset=True, metric=metric))["metric"].tolist() == [metric]
