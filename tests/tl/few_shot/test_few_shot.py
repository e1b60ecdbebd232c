"""Few-shot tasks on rows whose classes are known: draws without leaks, and labels that cannot be learnt."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.few_shot import labelled, run
from helpers.sections import spoil, warns_here
from sklearn.linear_model import LogisticRegression
from spatialdata import read_zarr

import spade as sp
from spade.tl._few_shot.probes import Probe, linear
from spade.tl._few_shot.rows import guard_width

# --- predictions


def test_predictions_give_the_scores_and_name_every_spot_of_the_query(four):
    options = {"use_rep": ["X_f", "X_noise"], "groupby": "patient"}
    table, predictions = run(four, **options, return_predictions=True)
    pd.testing.assert_frame_equal(table, run(four, **options))
    draw = ["representation", "classifier", "shots", "repeat", "unit"]
    assert predictions.columns.tolist() == [
        *draw, "section", "spot", "label", "predicted", "probability_a", "probability_b", "probability_c",
    ]  # fmt: skip
    shares = predictions.filter(like="probability_")
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert (shares.idxmax(axis=1).str.removeprefix("probability_") == predictions["predicted"]).all()
    right = predictions.assign(value=predictions["label"] == predictions["predicted"])
    recalls = right.groupby([*draw, "label"])["value"].agg(["mean", "size"])
    scored = table[table["metric"] == "recall"].set_index([*draw, "label"]).loc[recalls.index]
    np.testing.assert_allclose(recalls["mean"], scored["value"])
    assert recalls["size"].tolist() == scored["n_query"].tolist()
    truth = pd.concat({sample.attrs["spade"]["sample"]: sample["table"].obs["kind"].astype(str) for sample in four})
    assert (truth.loc[list(zip(right["section"], right["spot"], strict=True))].to_numpy() == right["label"]).all()


# --- draws


def test_draws_within_a_section_use_the_rest_as_query(four):
    table = run(four[0], n_repeats=2)
    n_query = table[table["metric"] == "macro_f1"].set_index(["shots", "repeat"])["n_query"]
    assert n_query.to_dict() == {(1, 0): 33, (1, 1): 33, (4, 0): 24, (4, 1): 24}
    assert set(table["unit"]) == {"s0"}


def test_representations_get_the_same_draws(four):
    for sample in four:
        sample["table"].obsm["X_again"] = sample["table"].obsm["X_f"] * 3 + 1
    table = run(four, use_rep=["X_f", "X_again", ("X_f", "X_noise")], groupby="patient")
    one, again = (
        table[table["representation"] == name].drop(columns="representation").reset_index(drop=True)
        for name in ("X_f", "X_again")
    )
    pd.testing.assert_frame_equal(one, again)  # as scaling takes the difference away
    assert "X_f + X_noise" in set(table["representation"])
    named = run(four, use_rep={"both": ("X_f", "X_noise")}, groupby="patient")
    pd.testing.assert_frame_equal(
        named.drop(columns="representation").reset_index(drop=True),
        table[table["representation"] == "X_f + X_noise"].drop(columns="representation").reset_index(drop=True),
    )


def test_a_representation_that_is_missing_in_places_does_not_change_the_draws_of_others(four):
    spoil(four[0], "X_noise", [0, 1])
    table = run(four, use_rep=["X_f", "X_noise"], groupby="patient")
    counts = table[table["metric"] == "macro_f1"].groupby(["unit", "representation"])["n_query"].first().unstack()
    assert (counts["X_f"] == counts["X_noise"]).all()
    assert counts.loc["s0", "X_f"] == 34


def test_results_are_of_other_patients_and_reproducible(four):
    two = [labelled("p1a", 0, patient="p1"), labelled("p1b", 1, patient="p1"), labelled("p2", 2, patient="p2")]
    table = run(two, groupby="patient", n_repeats=4)
    assert set(table["unit"]) == {"p1", "p2"}
    per_draw = table[table["metric"] == "macro_f1"].groupby(["repeat", "shots"])["unit"].nunique()
    assert (per_draw == 1).all()  # one patient to learn from, the other to test on
    pd.testing.assert_frame_equal(table, run(two, groupby="patient", n_repeats=4))
    assert not table.equals(run(two, groupby="patient", n_repeats=4, rng=1))


def test_signal_is_found_and_noise_is_not(four):
    table = run(four, use_rep=["X_f", "X_noise"], groupby="patient", shots=8, n_repeats=10)
    found = sp.tl.few_shot_summary(table).set_index("representation")["mean"]
    assert found["X_f"] > 0.75
    assert abs(found["X_noise"] - 1 / 3) < 0.1


@pytest.mark.parametrize("classifier", ["linear", "centroid", "knn"])
@pytest.mark.parametrize("scaling", ["block", "section", "support", "none"])
def test_every_classifier_learns_with_every_scaling(four, classifier, scaling):
    table = run(four, groupby="patient", classifier=classifier, scaling=scaling, shots=(1, 8), n_repeats=6)
    found = sp.tl.few_shot_summary(table, metric="macro_auroc").set_index("shots")["mean"]
    assert found[8] > 0.85
    assert found[8] > found[1]


def test_the_linear_probe_is_the_logistic_regression_of_scikit_learn():
    rng = np.random.default_rng(0)
    y = np.arange(12) % 3
    x = rng.normal(size=(12, 50)) + np.eye(3, 50)[y] * 2
    others = rng.normal(size=(30, 50))
    for c in (0.1, 1.5):
        wanted = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(x, y).predict_proba(others)
        np.testing.assert_allclose(linear(x, y, c)(others), wanted, atol=1e-2)
    np.testing.assert_allclose(Probe(C="paper").fit(x, y)(others), linear(x, y, 2.0)(others))
    by_norm = 4 / np.mean([row @ row for row in x])
    np.testing.assert_allclose(Probe().fit(x, y)(others), linear(x, y, by_norm)(others))
    np.testing.assert_allclose(Probe().fit(100 * x, y)(100 * others), Probe().fit(x, y)(others), atol=1e-3)


def test_c_is_chosen_within_the_support():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = np.column_stack([rng.normal(size=(60, 40)), 0.6 * (2 * y - 1) + rng.normal(size=60)])
    probe = Probe(C="cv")
    assert probe._choose(x, y, 0) < 1  # nearly all is noise: a strong penalty
    clear = np.column_stack([4.0 * (2 * y - 1) + rng.normal(size=60)])
    assert probe._choose(clear, y, 0) >= 1
    assert probe._choose(x[:2], y[:2], 0) == 4 / np.square(x[:2]).sum(1).mean()  # one shot: nothing to validate on


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classifier": "svm"}, "classifier='svm': expected one of 'linear', 'centroid', 'knn'"),
        ({"C": 0}, "C=0: expected a positive number"),
        ({"C": "best"}, "C='best': expected a positive number"),
        ({"n_neighbors": 0}, "n_neighbors=0: expected a whole number"),
        ({"shots": ()}, r"shots=\(\): expected at least one whole number"),
        ({"shots": (1, 0)}, "shots=0: expected a whole number of at least 1"),
        ({"n_repeats": 0}, "n_repeats=0: expected a whole number"),
        ({"scaling": "minmax"}, "scaling='minmax': expected one of 'block', 'section', 'support', 'none'"),
        ({"C": "paper"}, 'C="paper" is C = 2 on features that are not scaled, with all rows alike: add scaling="none"'),
        ({"weights": {"X_f": 2}}, "weights: 'X_f' is not among the keys of a tuple in use_rep"),
        (
            {"weights": {"X_f": -1}, "use_rep": ("X_f", "X_noise")},
            r"weights\['X_f'\]=-1: expected a number of at least 0",
        ),
        ({"weights": 2, "use_rep": ("X_f", "X_noise")}, 'weights=2: expected "auto", or a dict'),
        ({"use_rep": []}, r"use_rep=\[\]: expected an obsm key"),
        ({"use_rep": 3}, "use_rep=3: expected an obsm key"),
        ({"guard_um": 5}, "guard_um=5 has no meaning without block_um="),
        ({"n_support_groups": 1}, "n_support_groups=1 has no meaning without groupby="),
        ({"groupby": "patient", "block_um": 100}, "choose one"),
        ({"block_um": -1}, "block_um=-1: expected a positive"),
        (
            {"groupby": "patient", "n_support_groups": 4},
            "n_support_groups=4: expected a whole number from 1 to 3, as 4 groups have labels",
        ),
        (
            {"shots": 12},
            r"s0: 'a' has 12, 'b' has 12, 'c' has 12 labelled spots, but 12 shots and a query need at least 13",
        ),
        (
            {"shots": 25, "groupby": "patient"},
            r"no draw of 2 of 4 groups has 25 labelled spots of every class \(a: 48, b: 48, c: 48",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(four, options, said):
    with pytest.raises(ValueError, match=said):
        run(four, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"shots": (4, 8, 12, 20)},
            r"s0: 'a' has 12, .* 12 shots and a query need at least 13 .* shots=: 12, 20; drawn: 4",
        ),
        (
            {"shots": (4, 8, 25), "groupby": "patient"},
            r"no draw of 2 of 4 groups has 25 .*out of shots=: 25; drawn: 4, 8\.",
        ),
    ],
)
def test_shots_that_the_rarest_class_does_not_allow_are_left_out(four, options, said):
    with pytest.warns(UserWarning, match=said):
        found = run(four, **options)
    pd.testing.assert_frame_equal(found, run(four, **options | {"shots": (4, 8)}))


def test_labels_that_cannot_be_learnt_are_refused(four):
    with pytest.raises(KeyError, match="label_key='region_'"):
        run(four, label_key="region_")
    for sample in four:
        sample["table"].obs["one"] = "tumour"
        sample["table"].obs["none"] = pd.Categorical([None] * 36, categories=["a"])
    with pytest.raises(ValueError, match=r"label_key='one': all labels are 'tumour'; .* needs at least two classes"):
        run(four, label_key="one")
    with pytest.raises(ValueError, match="label_key='none': there are no labels"):
        run(four, label_key="none")
    for sample in four:
        sample["table"].obs["patient"] = "p"
    with pytest.raises(ValueError, match=r"groupby='patient': all labelled spots belong to 'p'.*block_um="):
        run(four, groupby="patient")
    spoil(four[0], "X_f", (slice(0, 3), 2))
    with pytest.raises(ValueError, match=r"s0: obsm\['X_f'\] has NaN in part of 3 rows"):
        run(four)


def test_spots_without_a_label_are_not_used(four):
    obs = four[0]["table"].obs
    obs.loc[obs.index[:6], "kind"] = None
    table = run(four[0])
    assert set(table[table["metric"] == "macro_f1"].query("shots == 1")["n_query"]) == {27}


def test_constant_features_do_no_harm(four):
    for sample in four:
        x = sample["table"].obsm["X_f"]
        sample["table"].obsm["X_more"] = np.column_stack([x, np.full(len(x), 7.0)]).astype(np.float32)
    table = run(four, use_rep=["X_f", "X_more"], classifier="centroid", groupby="patient")
    values = table.groupby("representation")["value"].apply(list)
    np.testing.assert_allclose(values["X_f"], values["X_more"])


def test_blocks_need_patches_and_give_results(cohort):
    table = sp.tl.few_shot(
        cohort, label_key="domain", use_rep="X_texture", shots=(1, 2), n_repeats=3, block_um=600, guard_um=100
    )
    assert len(set(table["unit"])) == 2
    with pytest.raises(
        ValueError, match=r"no draw of blocks of 600 µm with a guard band of 5000 µm leaves 1 labelled spots"
    ):
        sp.tl.few_shot(cohort, label_key="domain", use_rep="X_texture", shots=1, block_um=600, guard_um=5000)
    with pytest.raises(KeyError, match="patches_key='none' is not there"):
        sp.tl.few_shot(cohort, label_key="domain", use_rep="X_texture", shots=1, block_um=600, patches_key="none")


def test_a_single_object_keeps_its_results_through_a_store(four, tmp_path):
    path = tmp_path / "s0.zarr"
    sp.io.write(four[0], path)
    table = run(path)
    stored = read_zarr(path)["table"].uns["few_shot"]
    pd.testing.assert_frame_equal(stored, table, check_dtype=False)
    assert read_zarr(path)["table"].uns["spade"]["few_shot"]["label_key"] == "kind"


def test_results_of_several_classifiers_are_not_averaged(four):
    both = pd.concat([run(four, groupby="patient", classifier=name) for name in ("linear", "knn")])
    with pytest.raises(ValueError, match="rows for the same representation and draw occur more than once"):
        sp.tl.few_shot_summary(both)
    for sample in four:
        sample["table"].obs["stage"] = "I" if sample is four[0] or sample is four[1] else "II"
    table = run(four, label_key="stage", groupby="patient", shots=1)
    with pytest.raises(ValueError, match="metric='macro_auroc' is NaN throughout"):
        sp.tl.few_shot_summary(table, metric="macro_auroc")
    assert len(sp.tl.few_shot_summary(table)) == 1


def test_a_class_of_one_patient_is_never_asked_for_and_that_is_said(four):
    kinds = four[0]["table"].obs["kind"].astype(str).to_numpy()
    kinds[:6] = "d"
    four[0]["table"].obs["kind"] = kinds
    with warns_here("classes 'd' and groups 's0' are never in the query"):
        table = run(four, groupby="patient")
    assert set(table["n_classes"]) == {4}


def test_whole_numbers_are_the_same_class_with_and_without_missing_values(four):
    for i, sample in enumerate(four):
        number = pd.Series(np.arange(36) % 3, index=sample["table"].obs.index)
        sample["table"].obs["grade"] = number.where(np.arange(36) > 3) if i % 2 else number
    table = run(four, label_key="grade", groupby="patient")
    assert set(table["label"]) == {"", "0", "1", "2"}
    four[0]["table"].obs["grade"] = np.linspace(0, 1, 36)
    with pytest.raises(TypeError, match=r"s0: label_key='grade' is a column of numbers such as .*pandas.cut"):
        run(four, label_key="grade")


def test_sections_without_labels_are_passed_over(four):
    four[3]["table"].obs["kind"] = None
    assert set(run(four)["unit"]) == {"s0", "s1", "s2"}


def test_context_features_widen_the_guard_band(cohort):
    sp.pp.spatial_context(cohort, use_rep="X_texture", radius_um=150)
    assert guard_width(cohort, {"a": ("X_texture",)}, "patches", None) == pytest.approx(200)  # two pitches
    assert guard_width(cohort, {"a": ("X_texture",), "b": ("X_texture", "X_texture_context")}, "patches", None) == 412


def test_results_do_not_replace_records(four):
    for key in ("spade", "spatialdata_attrs"):
        with pytest.raises(ValueError, match=f"key_added='{key}' is the key of records about the object"):
            run(four[0], key_added=key)
