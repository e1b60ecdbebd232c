"""All slides of a patient as one bag: the same as files in which they were joined by hand."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from helpers.slides import FAST, quick, slide, write_h5

import spade as sp
from spade.tl._slides.bags import read_bags
from spade.tl._slides.pooled import pooled

COUNTS = (1, 3, 2)
TARGETS = (
    {"label_key": "kind"},
    {"label_key": "grade", "target": "ordinal"},
    {"label_key": "age", "target": "continuous"},
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """24 patients with 1 to 3 slides of 2 to 9 patches; the same in a file per patient, joined by hand."""
    slides, patients = tmp_path_factory.mktemp("slides"), tmp_path_factory.mktemp("patients")
    rng, rows = np.random.default_rng(0), []
    for p in range(24):
        blocks, value = [], rng.normal()
        for k in range(COUNTS[p % 3]):
            x = rng.normal(size=(2 + (3 * p + 5 * k) % 8, 6)).astype(np.float32)
            x[:, 1] += 2 * value + k
            write_h5(slides / f"p{p:02d}_{k}.h5", x)
            facts = {"age": 50 + 10 * value, "grade": int(value > 0) + int(value > 0.6), "kind": "ab"[int(value > 0)]}
            rows.append({"sample": f"p{p:02d}_{k}", "patient": f"p{p:02d}", **facts, "site": "AAB"[p // 2 % 3]})
            blocks.append(x)
        write_h5(patients / f"p{p:02d}.h5", np.concatenate(blocks))
    return slides, patients, pd.DataFrame(rows)


def run(folder, labels, **options):
    return sp.tl.slide_task(folder, **quick({"labels": labels, "return_predictions": True} | options))


def by_patient(labels):
    return labels.drop_duplicates("patient").assign(sample=lambda table: table["patient"])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "options",
    [
        {}, {"shots": 2}, {"head": "abmil", "n_epochs": 2},
        pytest.param({"head": "transmil", "n_epochs": 2}, marks=pytest.mark.slow),
        {"cohort_key": "site", "train_on": "A"}, {"cohort_key": "site", "train_on": "A", "n_folds": 0},
    ],
)  # fmt: skip
def test_patients_are_scored_as_files_joined_by_hand(cohort, target, options):
    slides, patients, labels = cohort
    table, predicted = run(slides, labels, unit="patient", **target, **options)
    expected, of_hand = run(patients, by_patient(labels), **target, **options)
    pd.testing.assert_frame_equal(table, expected)
    n_slides = predicted.pop("n_slides")
    assert n_slides.tolist() == [COUNTS[int(name[1:]) % 3] for name in predicted["group"]]
    pd.testing.assert_frame_equal(predicted, of_hand.drop(columns="slide"))


def test_six_patients_of_two_slides_are_six(tmp_path, caplog):
    rng, rows = np.random.default_rng(0), []
    for p in range(6):
        for k in range(2):
            write_h5(tmp_path / f"{p}{k}.h5", (rng.normal(size=(4, 3)) + p % 2).astype(np.float32))
            rows.append({"sample": f"{p}{k}", "patient": f"p{p}", "kind": "ab"[p % 2], "fold": f"f{p // 2}"})
    labels = pd.DataFrame(rows)
    options = {"label_key": "kind", "fold_key": "fold"}
    with caplog.at_level(logging.INFO, logger="spade"):
        table, predicted = run(tmp_path, labels, unit="patient", **options)
    assert "12 slides of 6 patients: the patches of a patient's slides are one bag" in caplog.text
    assert predicted["group"].tolist() == [f"p{p}" for p in range(6)]
    assert table[table["metric"] == "macro_auroc"]["n_query"].tolist() == [2, 2, 2]
    assert table[table["metric"] == "accuracy"]["n_query"].tolist() == [1] * 6
    slides, _ = run(tmp_path, labels, **options)
    assert slides[slides["metric"] == "macro_auroc"]["n_query"].tolist() == [4, 4, 4]
    # a slide without a label is not part of its patient's bag
    (tmp_path / "less").mkdir()
    for path in tmp_path.glob("*.h5"):
        if path.stem != "31":
            (tmp_path / "less" / path.name).write_bytes(path.read_bytes())
    without = labels.assign(kind=labels["kind"].mask(labels["sample"] == "31"))
    less, of_less = run(tmp_path, without, unit="patient", **options)
    expected = run(tmp_path / "less", labels[labels["sample"] != "31"], unit="patient", **options)
    pd.testing.assert_frame_equal(less, expected[0])
    assert of_less["n_slides"].tolist() == [2, 2, 2, 1, 2, 2] and not of_less.equals(predicted)


def test_one_bag_is_read_at_a_time(cohort, monkeypatch):
    import spade.tl._slides.bags as module

    folder, _, labels = cohort
    read, real = [], module.read_feature_file
    monkeypatch.setattr(module, "read_feature_file", lambda path: read.append(path.stem) or real(path))
    bags = read_bags(folder, named=None, columns={"label_key": "kind"}, labels=labels)
    joined = pooled(bags, ["x", "y"], [np.array([1, 2, 3]), np.array([0])])
    assert len(joined) == 2 and read == []
    assert len(joined.read(0, "features")) == joined.n_rows["features"][0] and read == labels["sample"].tolist()[1:4]
    assert joined.facts["label_key"].tolist() == [labels["kind"][1], labels["kind"][0]]


@pytest.mark.parametrize(
    ("column", "value", "options", "said"),
    [
        ("kind", "ab", {}, "patient 'p01': label_key='kind' is {0} for slide 'p01_0' and {1} for slide 'p01_1'"),
        ("age", (40.5, 41.0), TARGETS[2], "patient 'p01': label_key='age' is 40.5 for slide 'p01_0' and 41 for slide"),
        ("fold", "xy", {"fold_key": "fold"}, "patient 'p01': fold_key='fold' is x for slide 'p01_0' and y for slide"),
        ("site", "AB", {"cohort_key": "site", "train_on": "A"}, "patient 'p01' is in the cohorts 'A', 'B'"),
        ("patient", ("p01", None), {}, "groupby='patient' is missing for 1 slide with a label, such as 'p01_1'"),
    ],
)  # fmt: skip
def test_slides_of_a_patient_must_agree(cohort, column, value, options, said):
    folder, _, labels = cohort
    labels = labels.assign(fold=[f"f{int(name[1:]) % 2}" for name in labels["patient"]]).astype({column: object})
    for slide_name, one in zip(("p01_0", "p01_1"), value, strict=True):
        labels.loc[labels["sample"] == slide_name, column] = one
    with pytest.raises(ValueError, match=said.format(*value)):
        run(folder, labels, unit="patient", **{"label_key": "kind", **options})


def test_patients_must_be_named(cohort):
    folder, _, labels = cohort
    options = {"labels": labels, "label_key": "kind", "groupby": None}
    with pytest.raises(ValueError, match="unit='patient' with groupby=None: name the column of the patients"):
        sp.tl.slide_task(folder, unit="patient", **options)
    with pytest.raises(ValueError, match="unit='case': expected one of 'slide', 'patient'"):
        sp.tl.slide_task(folder, unit="case", **options)
    few = labels.assign(kind=np.where(labels["patient"] == "p02", "b", "a"))
    with pytest.raises(ValueError, match=r"the other folds have fewer than 1 patient of 'b'|has only patients of 'a'"):
        run(folder, few, label_key="kind", unit="patient")


def test_slides_of_samples_are_joined_too():
    samples = [slide(i, n=12 + i, patient=f"p{i // 2}") for i in range(12)]
    for i, sample in enumerate(samples):
        sample["table"].obs["kind"] = "ab"[i // 2 % 2]
    options = {"label_key": "kind", "use_rep": "X_f", "unit": "patient", "n_folds": 2, "return_predictions": True}
    _, predicted = sp.tl.slide_task(samples, **options)
    means = {
        f"p{p}": np.concatenate([s["table"].obsm["X_f"] for s in samples[2 * p : 2 * p + 2]]).mean(0) for p in range(6)
    }
    assert predicted["n_slides"].tolist() == [2] * 6 and sorted(predicted["group"]) == sorted(means)
    table = pd.DataFrame({"sample": list(means), "patient": list(means), "kind": [*"ababab"]})
    single = [slide(0, n=1, patient=name) for name in means]
    for sample, name in zip(single, means, strict=True):
        sample["table"].obsm["X_f"], sample.attrs["spade"]["sample"] = means[name][None], name
    _, expected = sp.tl.slide_task(single, labels=table, **{**options, "unit": "slide"})
    np.testing.assert_allclose(predicted["probability_b"], expected["probability_b"], atol=1e-5)


# --- a single training


@pytest.mark.parametrize("target", TARGETS)
def test_without_cross_validation_a_head_is_trained_once(cohort, target, monkeypatch):
    from spade.tl._slides.task import evaluate

    folder, _, labels = cohort
    options = {**target, "cohort_key": "site", "train_on": "A", "head": ["mean", "abmil"], **FAST, "n_epochs": 1}
    table, predicted = run(folder, labels, **options)
    trained, real = [], evaluate.fit_slide_head
    monkeypatch.setattr(evaluate, "fit_slide_head", lambda *a, **k: trained.append(a[3]) or real(*a, **k))
    once, of_once = run(folder, labels, **options, n_folds=0)
    assert trained == ["mean", "abmil"] and set(once["evaluation"]) == {"external"}
    for found, other in ((once, table), (of_once, predicted)):
        external = other[other["evaluation"] == "external"].reset_index(drop=True)
        pd.testing.assert_frame_equal(found.reset_index(drop=True), external[list(found)], check_dtype=False)


def test_training_slides_must_be_enough(cohort):
    folder, _, labels = cohort
    options = {"cohort_key": "site", "train_on": "A", "n_folds": 0}
    with pytest.raises(ValueError, match="train_on='A' has fewer than 99 slides of 'a', 'b' to learn from"):
        run(folder, labels, label_key="kind", **options, shots=99)
    with pytest.raises(ValueError, match=r"train_on='A' has \d+ patients, fewer than shots=99"):
        run(folder, labels, **TARGETS[2], unit="patient", **options, shots=99)
    same = labels.assign(age=labels["age"].mask(labels["site"] == "A", 50.0))
    with pytest.raises(ValueError, match=r"train_on='A' has \d+ slides to learn from, and the value of all is 50"):
        run(folder, same, **TARGETS[2], **options)
    with pytest.raises(ValueError, match="n_folds=1: expected a whole number of at least 2, or 0"):
        run(folder, labels, label_key="kind", **{**options, "n_folds": 1})
    with pytest.raises(ValueError, match="n_folds=0: expected a whole number of at least 2"):
        run(folder, labels, label_key="kind", n_folds=0)


# --- survival


@pytest.mark.parametrize("head", ["mean", "abmil"])
def test_risks_of_patients_are_those_of_files_joined_by_hand(cohort, head):
    slides, patients, labels = cohort
    labels = labels.assign(time=np.exp(labels["age"] / 10), event=labels["patient"].str[1:].astype(int) % 4 > 0)
    options = {"time_key": "time", "event_key": "event", "n_folds": 2, "head": head, "n_bins": 2}
    options |= {} if head == "mean" else {"n_epochs": 2, "hidden": 8, "device": "cpu"}
    found = sp.tl.survival(slides, labels=labels, unit="patient", **options)
    expected = sp.tl.survival(patients, labels=by_patient(labels), **options)
    assert found["n_slides"].tolist() == [COUNTS[p % 3] for p in range(24)] and (expected["n_slides"] == 1).all()
    pd.testing.assert_frame_equal(found.drop(columns="n_slides"), expected.drop(columns="n_slides"))
    apart = sp.tl.survival(slides, labels=labels, **options)
    assert not np.allclose(apart["risk"], found["risk"])
    with pytest.raises(ValueError, match="unit='patient' with groupby=None"):
        sp.tl.survival(slides, labels=labels, unit="patient", groupby=None, **options)
