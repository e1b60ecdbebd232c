"""Tasks whose samples are cases of several slides, and splits that train on few of them."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from helpers.slides import means_of, write_h5

import spade as sp


def cases(folder, n_slides=(2,), n=24, seed=0, width=4):
    """Slides of cases, and the same features in one file per case, joined by hand; and a table of the slides."""
    rng, rows = np.random.default_rng(seed), []
    for name in ("slides", "cases"):
        (folder / name).mkdir(parents=True)
    for c in range(n):
        blocks = []
        for k in range(n_slides[c % len(n_slides)]):
            x = (rng.normal(size=(2 + 5 * k, width)) + (c % 2 if k == 0 else 0.5)).astype(np.float32)
            write_h5(folder / "slides" / f"c{c:02d}_{k}.h5", x)
            rows.append({"case_id": f"c{c:02d}", "slide_id": f"c{c:02d}_{k}", "response": c % 2})
            blocks.append(x)
        write_h5(folder / "cases" / f"c{c:02d}.h5", np.concatenate(blocks))
    return pd.DataFrame(rows)


def one_row_per_case(table):
    return table.drop_duplicates("case_id").assign(slide_id=lambda table: table["case_id"])


def number(table):
    return table["case_id"].str[1:].astype(int)


def part(trained, tested):
    return np.select([trained, tested], ["train", "test"], "")


def nadt(folder, table, **options):
    return sp.tasks.get("nadt/response").run(folder, table, return_scores=True, **options)


def test_slides_of_a_case_are_scored_as_one(tmp_path):
    table = cases(tmp_path)
    table["fold_0"] = part(number(table) < 18, number(table) >= 18)  # six cases of two slides are tested
    _, scores = nadt(tmp_path / "slides", table)
    n_query = scores.set_index("metric")["n_query"]
    assert n_query["macro_auroc"] == n_query["balanced_accuracy"] == 6 and n_query["recall"].tolist() == [3, 3]
    accuracy = scores[scores["metric"] == "accuracy"]
    assert accuracy["unit"].tolist() == [f"c{c}" for c in range(18, 24)] and (accuracy["n_query"] == 1).all()
    with pytest.raises(TypeError, match="unit"):
        nadt(tmp_path / "slides", table, unit="slide")


SPLITS = {
    "one": [lambda c: c < 16],
    "several": [lambda c, f=f: (7 * c + 5 * f) % 24 < 14 for f in range(3)],
    "folds": [lambda c, f=f: c // 2 % 3 != f for f in range(3)],
}


@pytest.mark.parametrize("splits", SPLITS)
@pytest.mark.parametrize("options", [{}, {"head": "abmil", "n_epochs": 2, "hidden": 8, "device": "cpu"}])
def test_cases_are_scored_as_files_joined_by_hand(tmp_path, splits, options):
    table = cases(tmp_path, n_slides=(1, 3, 2))
    for f, trained in enumerate(SPLITS[splits]):
        table[f"fold_{f}"] = part(trained(number(table)), ~trained(number(table)))
    result, scores = nadt(tmp_path / "slides", table, **options)
    expected, of_hand = nadt(tmp_path / "cases", one_row_per_case(table), **options)
    pd.testing.assert_frame_equal(scores, of_hand)
    pd.testing.assert_frame_equal(result, expected)


def test_dealt_folds_are_of_cases_too_and_slides_of_unknown_patients_of_their_own(tmp_path, caplog):
    table = cases(tmp_path)
    _, scores = nadt(tmp_path / "slides", table, n_folds=3)
    pd.testing.assert_frame_equal(scores, nadt(tmp_path / "cases", one_row_per_case(table), n_folds=3)[1])
    own = table.rename(columns={"slide_id": "sample", "response": "label"})
    brca = sp.tasks.get("tcga_brca")  # bags are per case, says its code
    with_patients = own.rename(columns={"case_id": "patient"})
    _, of_cases = brca.run(tmp_path / "slides", with_patients, n_folds=3, return_scores=True)
    assert of_cases[of_cases["metric"] == "accuracy"].shape[0] == 24
    with caplog.at_level(logging.INFO, logger="spade"):
        _, alone = brca.run(tmp_path / "slides", own, n_folds=3, return_scores=True)
    assert alone[alone["metric"] == "accuracy"].shape[0] == 48 and "no patients are known" in caplog.text


def test_survival_of_cases_is_of_one_bag_per_case(tmp_path):
    table = cases(tmp_path, n_slides=(1, 3, 2))
    table["OS_event"], table["OS_days"] = (number(table) % 4 > 0).astype(int), 100 + 7 * number(table)
    for f in range(3):
        table[f"fold_{f}"] = part(number(table) % 3 != f, number(table) % 3 == f)
    task = sp.tasks.get("cptac_pda/OS")
    _, scores = task.run(tmp_path / "slides", table, return_scores=True, loss="cox")
    _, of_hand = task.run(tmp_path / "cases", one_row_per_case(table), return_scores=True, loss="cox")
    pd.testing.assert_series_equal(scores["risk"], of_hand["risk"])
    assert scores["n_slides"].tolist() == [(1, 3, 2)[c % 3] for c in range(24)]


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("response", (0, 1), "patient 'c02': label_key='label' is .* for slide 'c02_0' and .* for slide 'c02_1'"),
        (
            "fold_1",
            ("train", "test"),
            "patient 'c02': labels: 'fold_1' is train for slide 'c02_0' and test for slide 'c",
        ),
        (
            "fold_0",
            ("", "train"),
            "patient 'c02': labels: 'fold_0' is empty for slide 'c02_0' and train for slide 'c02_1'",
        ),
        ("case_id", ("c02", None), "groupby='patient' is missing for 1 slide with a label, such as 'c02_1'"),
    ],
)
def test_slides_of_a_case_must_agree(tmp_path, column, values, said):
    table = cases(tmp_path)
    for f in range(2):
        table[f"fold_{f}"] = part(number(table) < 15 + f, number(table) >= 15 + f)
    for k, value in enumerate(values):
        table.loc[table["slide_id"] == f"c02_{k}", column] = value
    with pytest.raises(ValueError, match=said):
        nadt(tmp_path / "slides", table)


# --- splits that are no folds


def k_shot(table, shots, n_splits):
    """The layout of k=1.tsv: some cases per class are trained on, others tested, and others are in neither."""
    c = number(table)
    for f in range(n_splits):
        table[f"fold_{f}"] = part((c >= 2 * f) & (c < 2 * (f + shots)), c >= 14)
    return table


@pytest.mark.parametrize(("shots", "n_splits"), [(1, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize("head", ["mean", "abmil"])
def test_tables_of_a_few_shots_are_run(tmp_path, caplog, monkeypatch, shots, n_splits, head):
    from spade.tl._slides.task import evaluate

    trained, real = [], evaluate.fit_slide_head
    monkeypatch.setattr(
        evaluate, "fit_slide_head",
        lambda slides, name, m, h, train, **k: (
            trained.append([slides.bags.names[i] for i in train]) or real(slides, name, m, h, train, **k)
        ),
    )  # fmt: skip
    table = k_shot(cases(tmp_path), shots, n_splits)
    options = {} if head == "mean" else {"n_epochs": 2, "hidden": 8, "device": "cpu"}
    with caplog.at_level(logging.INFO, logger="spade"):
        result, scores = nadt(tmp_path / "slides", table, head=head, **options)
    n_left_out = 2 * (14 - 2 * shots)
    assert all(
        f"fold_{f}: {n_left_out} slides in neither train nor test, left out" in caplog.text for f in range(n_splits)
    )
    # every head is trained once, on one case of each class per shot
    assert trained == [[f"c{c:02d}" for c in range(2 * f, 2 * (f + shots))] for f in range(n_splits)]
    aurocs = scores[scores["metric"] == "macro_auroc"]
    assert aurocs["unit"].tolist() == [f"fold_{f}" for f in range(n_splits)] and (aurocs["n_query"] == 10).all()
    assert result["value"][0] == pytest.approx(aurocs["value"].mean())


def test_one_shot_is_the_nearest_of_two_cases(tmp_path):
    """With one case per class, the probe decides by the side of the plane between their means."""
    table = k_shot(cases(tmp_path, n=40), 1, 1)
    _, scores = nadt(tmp_path / "slides", table, scaling="none")
    means = means_of(tmp_path / "cases")
    side = {c: float((means[c] - (means[0] + means[1]) / 2) @ (means[1] - means[0])) for c in range(14, 40)}
    accuracy = scores[scores["metric"] == "accuracy"].set_index("unit")["value"]
    assert {f"c{c}": float((side[c] > 0) == c % 2) for c in side} == accuracy.to_dict()


def test_folds_that_train_on_some_of_the_others_are_no_folds(tmp_path):
    """Every case is tested once, but each split trains on four cases alone: heads must learn no others."""
    table = cases(tmp_path, n=12)
    for f in range(2):
        inside = number(table) // 6 == f
        table[f"fold_{f}"] = part(~inside & (number(table) % 6 < 4), inside)
    _, scores = nadt(tmp_path / "slides", table)
    labels = one_row_per_case(table).rename(columns={"slide_id": "sample", "case_id": "patient", "response": "kind"})
    labels["kind"] = labels["kind"].map({0: "a", 1: "b"})
    for f in range(2):
        site = labels[f"fold_{f}"].replace("", "none")
        direct = sp.tl.slide_task(
            tmp_path / "cases", labels=labels.assign(site=site), label_key="kind", cohort_key="site", train_on="train",
            test_on="test", n_folds=0,
        )  # fmt: skip
        for metric in ("macro_auroc", "balanced_accuracy"):
            found = scores[(scores["unit"] == f"fold_{f}") & (scores["metric"] == metric)]["value"]
            assert found.tolist() == direct[direct["metric"] == metric]["value"].tolist()
    survival = table.assign(OS_event=1, OS_days=number(table) + 1)
    with pytest.raises(ValueError, match="do not test every slide once and train on it otherwise"):
        sp.tasks.get("cptac_pda/OS").run(tmp_path / "slides", survival)
