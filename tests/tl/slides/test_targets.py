"""Numbers and grades of slides: what they are learned by, how they are scored, and what may be taken for what."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.slides import means_of, quick, write_cohort
from scipy.stats import pearsonr
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import cohen_kappa_score, mean_absolute_error

import spade as sp

NUMBER = {"label_key": "age", "target": "continuous"}
GRADE = {"label_key": "grade", "target": "ordinal"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("slides") / "features"


@pytest.fixture(scope="module")
def known(folder):
    return write_cohort(folder)


def run(folder, labels, **options):
    return sp.tl.slide_task(folder, **quick({"labels": labels, "return_predictions": True} | options))


def of_units(slides, known):
    """Rows that a head was tested on and trained on, with its predictions."""
    for unit, own in slides.groupby("unit", sort=False):
        query = own["slide"].str[1:].astype(int).to_numpy()
        yield unit, query, np.setdiff1d(np.arange(len(known)), query), own


# --- numbers


def test_the_ridge_and_its_scores_are_those_of_other_programs(folder, known):
    table, slides = run(folder, known, **NUMBER, C=0.25, scaling="none")
    x, age = means_of(folder), known["age"].to_numpy()
    for unit, query, train, own in of_units(slides, known):
        predicted = Ridge(alpha=4).fit(x[train], age[train]).predict(x[query])
        np.testing.assert_allclose(own["predicted"], predicted, rtol=1e-4)
        np.testing.assert_allclose(own["label"], age[query])
        value = table[table["unit"] == unit].set_index("metric")["value"]
        assert value["pearson"] == pytest.approx(pearsonr(age[query], predicted).statistic, abs=1e-4)
        assert value["mae"] == pytest.approx(mean_absolute_error(age[query], predicted), abs=1e-3)
        total = np.square(age[query] - age[train].mean()).sum()
        assert value["r2"] == pytest.approx(1 - np.square(age[query] - predicted).sum() / total, abs=1e-4)
    by_patient = table[table["metric"] == "absolute_error"].set_index("unit")["value"]
    errors = (slides["label"] - slides["predicted"]).abs().groupby(slides["group"]).mean()
    pd.testing.assert_series_equal(by_patient.sort_index(), errors.sort_index(), check_names=False)
    assert set(table["n_classes"]) == {0}


def test_the_penalty_is_the_best_for_patients_held_out_of_the_training_slides(folder, known, monkeypatch):
    from spade.tl._slides.task import objectives

    seen, real = [], objectives.ridge_errors
    monkeypatch.setattr(objectives, "ridge_errors", lambda x, y, *rest: seen.append(rest) or real(x, y, *rest))
    table, slides = run(folder, known, **NUMBER, scaling="none")
    assert table.loc[table["metric"] == "r2", "value"].min() > 0.8
    noise = known.assign(age=np.random.default_rng(1).normal(size=len(known)))
    of_noise = run(folder, noise, **NUMBER, scaling="none")[1]
    x, alphas_chosen = means_of(folder), []
    units = [(rows, *unit) for rows, found in ((known, slides), (noise, of_noise)) for unit in of_units(found, rows)]
    for (rows, _, query, train, own), (folds, alphas) in zip(units, seen, strict=True):
        age, patient = rows["age"].to_numpy(), rows["patient"].to_numpy()[train]
        assert not any(set(patient[inner]) & set(patient[held]) for inner, held in folds)
        errors = [
            sum(
                np.square(Ridge(alpha=a).fit(x[train[i]], age[train[i]]).predict(x[train[h]]) - age[train[h]]).sum()
                for i, h in folds
            )
            for a in alphas
        ]
        alphas_chosen.append(alphas[int(np.argmin(errors))])
        predicted = Ridge(alpha=alphas_chosen[-1]).fit(x[train], age[train]).predict(x[query])
        np.testing.assert_allclose(own["predicted"], predicted, rtol=1e-4, atol=1e-6)
    assert min(alphas_chosen[3:]) > max(alphas_chosen[:3])  # what cannot be learned is shrunk


@pytest.mark.slow
@pytest.mark.parametrize("head", ["abmil", "transmil"])
def test_attention_heads_learn_numbers_in_their_unit(folder, known, head):
    thousands = known.assign(age=known["age"] * 1000)
    table, slides = run(folder, thousands, **NUMBER, head=head, n_epochs=15)
    assert table.loc[table["metric"] == "pearson", "value"].min() > 0.7
    assert 40_000 < slides["predicted"].mean() < 60_000


def test_folds_of_numbers_hold_like_values_and_whole_patients(folder, known):
    _, slides = run(folder, known, **NUMBER, n_folds=4)
    assert slides.groupby("group")["unit"].nunique().max() == 1
    third = np.searchsorted(slides["label"].quantile([1 / 3, 2 / 3]), slides["label"])
    assert (pd.crosstab(slides["unit"], third) > 0).all(axis=None)


def test_shots_of_numbers_are_slides_and_more_add_to_fewer(folder, known, monkeypatch):
    from spade.tl._slides.task import evaluate

    seen, real = [], evaluate.fit_slide_head
    monkeypatch.setattr(
        evaluate,
        "fit_slide_head",
        lambda s, n, m, h, train, **rest: seen.append(train) or real(s, n, m, h, train, **rest),
    )
    few = known.assign(age=np.where(np.arange(len(known)) < 36, 1.0, known["age"]))  # most have the same
    table, _ = run(folder, few, **NUMBER, shots=(2, 5))
    assert [len(rows) for rows in seen] == [2, 5] * 3
    for two, five in zip(seen[::2], seen[1::2], strict=True):
        assert set(two) < set(five)
        assert few["age"].to_numpy()[two].std() > 0
    assert set(table["shots"]) == {2, 5}


def test_small_folds_are_scored_together_over_patients(folder, known, caplog):
    caplog.set_level("INFO", "spade")
    table, slides = run(folder, known, **NUMBER, n_folds=5)
    assert "has fewer than 10 slides" in caplog.text
    pooled = table[table["unit"] == "all folds"].set_index("metric")
    assert set(pooled.index) == {"pearson", "r2", "c_index", "mae"}
    assert pooled.loc["pearson", "value"] == pytest.approx(pearsonr(slides["label"], slides["predicted"]).statistic)
    assert (pooled["low"] <= pooled["value"]).all()
    assert (pooled["value"] <= pooled["high"]).all()
    summary = sp.tl.few_shot_summary(table, metric="pearson").iloc[0]
    assert summary[["mean", "low", "high"]].tolist() == pooled.loc["pearson", ["value", "low", "high"]].tolist()
    assert summary["n_units"] == 1
    assert np.isnan(sp.tl.few_shot_summary(table, metric="pearson", level=0.9).iloc[0]["low"])
    errors = sp.tl.few_shot_summary(table, metric="absolute_error").iloc[0]
    assert errors["n_units"] == 20
    assert errors["low"] < errors["mean"] < errors["high"]


# --- grades


def test_the_kappa_is_that_of_the_predicted_grades(folder, known):
    table, slides = run(folder, known, **GRADE)
    for unit, _, _, own in of_units(slides, known):
        value = table[table["unit"] == unit].set_index("metric")["value"]
        pair = own["label"].astype(int), own["predicted"].astype(int)
        assert value["quadratic_kappa"] == pytest.approx(cohen_kappa_score(*pair, weights="quadratic", labels=range(4)))
        assert value["mae"] == pytest.approx((pair[0] - pair[1]).abs().mean())
        below = own.filter(like="probability_").to_numpy().cumsum(1)[:, :-1]
        assert own["predicted"].astype(int).tolist() == (below < 0.5).sum(1).tolist()
    accuracy = table[table["metric"] == "accuracy"]
    assert accuracy["value"].mean() == pytest.approx((slides["label"] == slides["predicted"]).mean())
    assert set(table["metric"]) == {
        "quadratic_kappa", "balanced_accuracy", "mae", "recall", "accuracy", "absolute_error"
    }  # fmt: skip


def test_two_grades_are_two_classes(folder, known):
    two = known.assign(grade=(known["grade"] > 1).astype(int))
    _, grades = run(folder, two, **GRADE)
    _, classes = run(folder, two, label_key="grade")
    names = ["slide", "label", "predicted"]
    pd.testing.assert_frame_equal(grades[names], classes[names])
    np.testing.assert_allclose(grades["probability_1"], classes["probability_1"], atol=1e-3)


def test_grades_can_be_learned_as_the_authors_do(folder, known):
    _, slides = run(folder, known, **GRADE, preset="paper")
    x, grade = means_of(folder), known["grade"].to_numpy()
    for _, query, train, own in of_units(slides, known):
        p = LogisticRegression(C=2, max_iter=10_000, tol=1e-8).fit(x[train], grade[train]).predict_proba(x[query])
        np.testing.assert_allclose(own.filter(like="probability_"), p, atol=1e-3)
        assert own["predicted"].astype(int).tolist() == p.argmax(1).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("head", ["abmil", "transmil"])
def test_attention_heads_learn_grades(folder, known, head):
    table, slides = run(folder, known, **GRADE, head=head, n_epochs=15)
    assert table.loc[table["metric"] == "quadratic_kappa", "value"].mean() > 0.6
    np.testing.assert_allclose(slides.filter(like="probability_").sum(axis=1), 1)


def test_the_order_is_that_of_the_categories_and_counts_those_without_slides(folder, known):
    names = ["low", "middle", "unused", "high", "top"]  # not the alphabet's
    grade = np.array([0, 1, 3, 4])[known["grade"]]
    named = known.assign(grade=pd.Categorical.from_codes(grade, names, ordered=True))
    table, slides = run(folder, named, **GRADE)
    assert list(slides.filter(like="probability_")) == [f"probability_{names[k]}" for k in (0, 1, 3, 4)]
    (unit, own), *_ = slides.groupby("unit")
    pair = (own[name].map(names.index) for name in ("label", "predicted"))
    kappa = table[(table["unit"] == unit) & (table["metric"] == "quadratic_kappa")]["value"].item()
    assert kappa == pytest.approx(cohen_kappa_score(*pair, weights="quadratic", labels=range(5)))


# --- what may be taken for what


def strings(known):
    return known.assign(grade=[f"G{k}" for k in known["grade"]])


def texts(known):
    return known.assign(grade=known["grade"].astype(str))


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (strings, {"label_key": "grade"}),
        (lambda k: k.assign(grade=pd.Categorical(k["grade"])), {"label_key": "grade"}),
        (lambda k: k.assign(grade=k["grade"] > 1), {"label_key": "grade"}),
        (lambda k: k.assign(grade=1.0 * (k["grade"] > 1)), {"label_key": "grade"}),
        (lambda k: k, {"label_key": "grade", "target": "classes"}),
    ],
)
def test_text_categories_and_two_values_are_classes(folder, known, change, options):
    table, _ = run(folder, change(known), **options)
    assert {"macro_auroc", "accuracy"} < set(table["metric"])
    assert not {"mae", "pearson"} & set(table["metric"])


def test_grades_may_be_whole_numbers_as_text(folder, known):
    pd.testing.assert_frame_equal(run(folder, texts(known), **GRADE)[0], run(folder, known, **GRADE)[0])


def with_value(column, value, row=3):
    def change(known):
        values = known[column].astype(object)
        values[row] = value
        return known.assign(**{column: values})

    return change


def constant(column):
    return lambda known: known.assign(**{column: 3})


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (None, {"label_key": "age"}, r'holds numbers such as .*which are no classes. Pass target="continuous"'),
        (None, {"label_key": "age", "target": "classes"}, "which are no classes"),
        (None, {"label_key": "grade"}, r'holds numbers \(0, 1, 2, 3\), which may be classes, grades or amounts. Say'),
        (None, {**NUMBER, "label_key": "kind"}, "label_key='kind': slide 's00' has '[ab]'; expected a number"),
        (None, {**GRADE, "label_key": "age"}, 'but grades are whole numbers. Pass target="continuous"'),
        (None, {**GRADE, "label_key": "kind"}, "label_key='kind': 'a', 'b' have no order. Make it an ordered categ"),
        (strings, GRADE, "'G0', 'G1', 'G2', 'G3' have no order"),
        (with_value("age", np.inf), NUMBER, "label_key='age': 1 slide has no finite number, such as 's03' with inf"),
        (with_value("age", "about 60"), NUMBER, "slide 's03' has 'about 60'; expected a number"),
        (with_value("grade", np.inf), GRADE, "1 slide has no finite number, such as 's03'"),
        (lambda k: k.assign(grade=np.where(k["sample"] == "s01", "1.0", k["grade"].astype(str))), GRADE,
         "label_key='grade': '1', '1.0' are the same number"),
        (constant("age"), NUMBER, "label_key='age': the only value is 3, of 40 slides, so there is nothing to predict"),
        (constant("grade"), GRADE, "label_key='grade': all grades are '3'; .* at least two"),
        (None, {**NUMBER, "target": "numbers"}, "target='numbers': expected one of 'auto', 'classes', 'ordinal', 'con"),
        (None, {**NUMBER, "class_weights": True}, "class_weights=True: target='continuous' has no classes"),
        (None, {**NUMBER, "preset": "paper"}, "preset='paper': presets are of heads that learn classes or grades"),
        (None, {**NUMBER, "C": "paper"}, "C='paper': expected a positive number or 'cv' or 'norm' for target='cont"),
        (None, {**NUMBER, "loss": "cumulative"}, "loss='cumulative': expected 'squared' for target='continuous'"),
        (None, {**GRADE, "C": "cv"}, "C='cv': expected a positive number or 'norm' for target='ordinal' with loss='cu"),
        (None, {**GRADE, "loss": "cumulative", "C": "paper"}, "C='paper': expected a positive number or 'norm'"),
        (None, {"label_key": "kind", "loss": "cumulative"}, "loss='cumulative': expected 'cross_entropy' for target='"),
        (None, {"label_key": "kind", "C": "cv"}, "C='cv': expected a positive number or one of 'norm', 'paper'"),
        (None, {**NUMBER, "shots": 1}, "shots=1: target='continuous' needs at least 2 training slides"),
        (None, {**NUMBER, "shots": 30}, "fewer than shots=30"),
        (lambda k: k.assign(grade=np.where(np.arange(40) == 3, 9, k["grade"])), GRADE,
         "fewer than 1 slide of '9' to learn from"),
        (lambda k: k.assign(age=np.where(np.arange(40) == 3, 9.5, 1)), NUMBER,
         "fold 0: the other folds have 26 slides to learn from, and the value of all is 1,"),
        (lambda k: k.assign(age=np.where(np.arange(40) > 0, np.nan, 1)), NUMBER, "the only value is 1, of 1 slide, so"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:39 of 40 slides have no value")
def test_targets_that_cannot_be_learned(folder, known, change, options, said):
    with pytest.raises(ValueError, match=said):
        run(folder, known if change is None else change(known), **options)


def test_slides_without_a_number_are_named_and_not_used(folder, known):
    lacking = known.assign(age=known["age"].mask(known["sample"].isin(["s03", "s08"])))
    with pytest.warns(UserWarning, match="2 of 40 slides have no value to predict and are not used: 's03', 's08'"):
        _, slides = run(folder, lacking, **NUMBER)
    assert len(slides) == 38
    assert not {"s03", "s08"} & set(slides["slide"])


def test_samples_have_one_order_or_none():
    from spade.tl._slides.columns import column_kind, joined_kind

    def ordered(values, categories):
        return column_kind(pd.Series(pd.Categorical(values, categories, ordered=True)))

    whole, part = ordered(["b", "a"], ["b", "a", "c"]), ordered(["c"], ["b", "c"])
    assert joined_kind([whole, part, None]).order == ("b", "a", "c")
    assert joined_kind([whole, ordered(["a"], ["a", "b"])]).order == ()
    assert joined_kind([ordered(["a"], ["a"]), ordered(["b"], ["b"])]).order == ()
    assert joined_kind([whole, column_kind(pd.Series(["a"]))]).order == ()
    assert column_kind(pd.Series([None, np.nan])) is None
    assert joined_kind([column_kind(pd.Series([1, None], dtype=object)), whole]).numbers
    assert not column_kind(pd.Series([True, False])).numbers


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            [1, 2, "high", 2],
            "label_key='grade': slide 's02' has 'high', but 's00' has the number 1. Write the labels of",
        ),
        ([True, False, 1, 0], "label_key='grade': slide 's00' has 'True', but 's02' has the number 1"),
        ([1, 0, True, False], "label_key='grade': slide 's02' has 'True', but 's00' has the number 1"),
    ],
)
@pytest.mark.parametrize("target", ["auto", "classes"])
def test_labels_of_one_kind_in_some_samples_and_another_in_others(labels, said, target):
    from helpers.slides import slide

    samples = [slide(i, n=12) for i in range(4)]
    for sample, label in zip(samples, labels, strict=True):
        sample["table"].obs["grade"] = label
    options = {"label_key": "grade", "target": target, "use_rep": "X_f"}
    with pytest.raises(ValueError, match=said):
        sp.tl.slide_task(samples, n_folds=2, **options)
    with pytest.raises(ValueError, match=said):
        sp.tl.attention(samples, n_epochs=1, **options)
    table = pd.DataFrame({"sample": [f"s0{i}" for i in range(4)], "grade": labels, "patient": [*"abcd"]})
    if "high" not in labels:  # else the column is one of text, whose values are classes
        with pytest.raises(ValueError, match=said):
            sp.tl.attention(samples, n_epochs=1, labels=table, **options)


@pytest.mark.slow
def test_numbers_and_grades_of_samples_come_through_a_store(tmp_path):
    from helpers.slides import slide

    samples = [slide(i, n=12) for i in range(8)]
    for i, sample in enumerate(samples):
        grade = pd.Categorical([["low", "mid", "high"][i % 3]] * 12, ["low", "mid", "high"], ordered=True)
        sample["table"].obs["grade"], sample["table"].obs["age"] = grade, 40.5 + i
    paths = [tmp_path / f"s{i:02d}.zarr" for i in range(8)]
    for sample, path in zip(samples, paths, strict=True):
        sp.io.write(sample, path)
    for options in (NUMBER, GRADE):
        found = [sp.tl.slide_task(one, use_rep="X_f", n_folds=2, **options) for one in (samples, paths)]
        pd.testing.assert_frame_equal(*found)
    assert found[0]["n_classes"].iloc[0] == 3
    with pytest.raises(ValueError, match=r"holds numbers such as 40\.5, 41\.5, .*no classes"):
        sp.tl.attention(samples, label_key="age", use_rep="X_f", n_epochs=1)


def test_plots_take_numbers_and_grades(folder, known):
    table, _ = run(folder, known, **NUMBER, head=["mean", "abmil"], n_epochs=1, shots=(2, 4))
    axes = sp.pl.few_shot(table, metric="pearson")
    assert axes.shape == (2,)
    assert axes[0].get_xlabel() == "training slides"
    n = int(sp.tl.few_shot_summary(table, metric="pearson")["n_units"].max())
    assert axes[0].get_title(loc="left").startswith(f"{n} unit{'' if n == 1 else 's'}")
    with pytest.raises(ValueError, match="shots=4: there are no classes"):
        sp.pl.few_shot(table, metric="pearson", shots=4)
    with pytest.raises(KeyError, match="metric='balanced_accuracy' is not in the table; metrics: 'absolute_error'"):
        sp.pl.few_shot(table)
    assert sp.pl.few_shot(run(folder, known, **GRADE)[0], metric="quadratic_kappa").shape == (2,)
