"""Slide tasks on slides whose class a few planted patches decide, and what users get wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.sections import featured, spoil
from helpers.slides import run, slide
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from spatialdata import read_zarr

import spade as sp
from spade.core.errors import NonFiniteLossError

# --- scores


def test_the_mean_probe_is_that_of_scikit_learn(twelve):
    table, slides = run(twelve, return_predictions=True)
    x = np.stack([one["table"].obsm["X_f"].mean(0, dtype=np.float64) for one in twelve])
    y = np.arange(12) % 2
    assert sorted(slides["slide"]) == [f"s{i:02d}" for i in range(12)]
    for unit, own in slides.groupby("unit"):
        query = own["slide"].str[1:].astype(int).to_numpy()
        train = np.setdiff1d(np.arange(12), query)
        mean, scale = x[train].mean(0), np.sqrt(x[train].var(0).sum())  # one block, whose columns keep their ratios
        model = LogisticRegression(C=4, max_iter=10_000, class_weight="balanced", tol=1e-8)
        p = model.fit((x[train] - mean) / scale, y[train]).predict_proba((x[query] - mean) / scale)
        np.testing.assert_allclose(own[["probability_a", "probability_b"]], p, atol=1e-3)
        value = table[table["unit"] == unit].set_index("metric")["value"]
        assert value["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y[query], p.argmax(1)))
        assert value["macro_auroc"] == pytest.approx(roc_auc_score(y[query], p[:, 1]))
    accuracy = table[table["metric"] == "accuracy"]
    assert set(accuracy["unit"]) == {f"p{i}" for i in range(12)}
    assert accuracy["value"].mean() == pytest.approx((slides["label"] == slides["predicted"]).mean())


def test_the_probe_of_the_paper_is_not_scaled(twelve):
    _, slides = run(twelve, C="paper", scaling="none", class_weights=False, return_predictions=True)
    x = np.stack([one["table"].obsm["X_f"].mean(0, dtype=np.float64) for one in twelve])
    y = np.arange(12) % 2
    for _, own in slides.groupby("unit"):
        query = own["slide"].str[1:].astype(int).to_numpy()
        train = np.setdiff1d(np.arange(12), query)
        p = LogisticRegression(C=2, max_iter=10_000, tol=1e-8).fit(x[train], y[train]).predict_proba(x[query])
        np.testing.assert_allclose(own[["probability_a", "probability_b"]], p, atol=1e-3)
    by_name = run(twelve, preset="paper", return_predictions=True)[1]
    pd.testing.assert_frame_equal(slides, by_name)
    with pytest.raises(ValueError, match='C="paper" is C = 2 on features that are not scaled, with all rows alike'):
        run(twelve, C="paper")


def test_the_columns_are_those_of_few_shot_and_summaries_and_plots_take_them(twelve):
    table = run(twelve, use_rep=["X_f", "X_noise"], shots=(1, 3), n_repeats=2)
    expected = [
        "representation",
        "classifier",
        "shots",
        "repeat",
        "unit",
        "metric",
        "label",
        "value",
        "n_query",
        "n_classes",
    ]
    assert list(table.columns) == expected
    summary = sp.tl.few_shot_summary(table, baseline="X_noise")
    assert summary[["representation", "shots", "n_units"]].values.tolist() == [
        ["X_f", 1, 3], ["X_noise", 1, 3], ["X_f", 3, 3], ["X_noise", 3, 3]
    ]  # fmt: skip
    paired = sp.tl.few_shot_summary(table, baseline="X_noise", metric="accuracy")
    assert (paired["n_units"] == 12).all()
    assert sp.pl.few_shot(table).shape == (3,)
    axes = sp.pl.few_shot(run(twelve))
    assert [tick.get_text() for tick in axes[0].get_xticklabels()] == ["all"]
    assert axes[1].get_title(loc="left") == "classes, all labels"


@pytest.mark.slow
def test_attention_beats_the_mean_where_few_patches_decide():
    samples = [slide(i) for i in range(40)]
    table = run(samples, head=["mean", "abmil"], n_folds=4, n_epochs=30, patience=10)
    mean = table[table["metric"] == "macro_auroc"].groupby("classifier")["value"].mean()
    assert mean["abmil"] > 0.9
    assert mean["abmil"] >= mean["mean"]
    assert set(table["representation"]) == {"X_f, mean", "X_f, abmil"}


def test_representations_and_heads_get_the_same_folds_shots_and_seeds(twelve):
    for sample in twelve:
        sample["table"].obsm["X_again"] = sample["table"].obsm["X_f"].copy()
    options = {"head": ["abmil", "mean"], "shots": 2, "n_epochs": 3, "return_predictions": True}
    _, slides = run(twelve, use_rep=["X_f", "X_again"], **options)
    one, again = (
        slides[slides["representation"].str.startswith(name)].drop(columns="representation").reset_index(drop=True)
        for name in ("X_f", "X_again")
    )
    pd.testing.assert_frame_equal(one, again)
    _, alone = run(twelve, **options)
    pd.testing.assert_frame_equal(alone.drop(columns="representation"), one)
    _, other = run(twelve, rng=1, **options)
    assert not other["slide"].equals(alone["slide"]) or not other["probability_a"].equals(alone["probability_a"])


def test_folds_share_no_patient(twelve):
    for i, sample in enumerate(twelve):
        sample["table"].obs["patient"] = f"p{i % 6}"
    _, slides = run(twelve, return_predictions=True)
    assert slides.groupby("group")["unit"].nunique().max() == 1
    assert slides.groupby("slide").size().eq(1).all()


def test_given_folds_are_used_and_a_patient_in_two_is_an_error(twelve):
    for i, sample in enumerate(twelve):
        sample["table"].obs["part"] = f"part {i // 2 % 2}"
    _, slides = run(twelve, fold_key="part", return_predictions=True)
    assert {f"part {int(name[1:]) // 2 % 2}" for name in slides["slide"]} == set(slides["unit"])
    assert all(f"part {int(s[1:]) // 2 % 2}" == u for s, u in zip(slides["slide"], slides["unit"], strict=True))
    twelve[0]["table"].obs["patient"] = "p2"
    with pytest.raises(
        ValueError, match=r"fold_key='part': the slides of 'p2' are in several folds, such as 'part 0', 'part 1'"
    ):
        run(twelve, fold_key="part")
    twelve[0]["table"].obs["part"] = "part 1"
    twelve[3]["table"].obs["part"] = None
    with pytest.raises(ValueError, match="fold_key='part' is missing for slides 's03'"):
        run(twelve, fold_key="part")
    for i, sample in enumerate(twelve):
        sample["table"].obs["patient"] = f"p{i}"
        sample["table"].obs["part"] = "ab"[i % 2]
    with pytest.raises(ValueError, match="a has only slides of 'a'"):
        run(twelve, fold_key="part")


def test_shots_come_from_the_other_folds_and_more_add_to_fewer(twelve, monkeypatch):
    from spade.tl._slides.task import evaluate

    seen = []
    real = evaluate.fit_slide_head
    monkeypatch.setattr(
        evaluate,
        "fit_slide_head",
        lambda s, n, m, h, train, **rest: seen.append(train) or real(s, n, m, h, train, **rest),
    )
    _, slides = run(twelve, shots=(1, 3), n_repeats=2, return_predictions=True)
    assert len(seen) == 3 * 2 * 2
    fits = slides.groupby(["repeat", "unit"], sort=False)
    for (one, three), (_, own) in zip(zip(seen[::2], seen[1::2], strict=True), fits, strict=True):
        assert set(one) < set(three)
        assert np.bincount(three % 2).tolist() == [3, 3]
        assert not {f"s{i:02d}" for i in three} & set(own["slide"])


def test_one_object_with_many_slides_keeps_the_table(twelve, tmp_path):
    sample = featured(36, name="all")
    table = sample["table"]
    number = np.arange(36) // 3
    table.obs["slide"] = [f"slide {k}" for k in number]
    table.obs["kind"] = np.array([*"ab"])[number % 2]
    table.obs["patient"] = table.obs["slide"]
    path = tmp_path / "all.zarr"
    sp.io.write(sample, path)
    found = run(path, slide_key="slide")
    stored = read_zarr(path)["table"]
    assert stored.uns["spade"]["slide_task"]["function"] == "tl.slide_task"
    pd.testing.assert_frame_equal(stored.uns["slide_task"], found, check_dtype=False)
    pd.testing.assert_frame_equal(run(sample, slide_key="slide"), found)


def test_stores_are_read_bag_by_bag_and_give_the_same(twelve, tmp_path):
    few = twelve[:4]
    for sample in few:
        spoil(sample, "X_f", [1, 4])
    paths = [tmp_path / f"s{i:02d}.zarr" for i in range(4)]
    for sample, path in zip(few, paths, strict=True):
        sp.io.write(sample, path)
    options = {"head": ["mean", "abmil"], "n_epochs": 2, "n_folds": 2}
    pd.testing.assert_frame_equal(run(iter(paths), **options), run(few, **options))


def test_unlabelled_slides_and_patches_without_features_are_left_out_and_counted(twelve, caplog):
    caplog.set_level("INFO", "spade")
    twelve[4]["table"].obs["kind"] = None
    spoil(twelve[0], "X_f", [0, 1])
    _, slides = run(twelve, return_predictions=True)
    assert "s04" not in set(slides["slide"])
    assert "1 of 12 slides have no label" in caplog.text
    assert "2 patches without a representation are not used" in caplog.text


def test_slides_of_one_patch_are_slides(twelve):
    for sample in twelve[:4]:
        spoil(sample, "X_f", np.arange(1, 36))
    table = run(twelve, head=["mean", "abmil", "transmil"], n_epochs=2)
    assert np.isfinite(table["value"]).all()


# --- what users get wrong with samples


def _several_labels(samples):
    samples[3]["table"].obs["kind"] = np.array([*"ab"])[np.arange(36) % 2]


def _several_patients(samples):
    samples[3]["table"].obs["patient"] = [f"p{i % 2}" for i in range(36)]


def _empty_bag(samples):
    spoil(samples[3], "X_f", np.arange(36))


def _other_width(samples):
    samples[3]["table"].obsm["X_f"] = samples[3]["table"].obsm["X_f"][:, :4]


def _no_patient(samples):
    del samples[3]["table"].obs["patient"]


def _one_class(samples):
    for sample in samples:
        sample["table"].obs["kind"] = "a"


def _rare_class(samples):
    for i, sample in enumerate(samples):
        sample["table"].obs["kind"] = "a" if i else "b"


def _one_patient(samples):
    for sample in samples:
        sample["table"].obs["patient"] = "p"


def _same_name(samples):
    samples[3].attrs["spade"]["sample"] = "s00"


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (_several_labels, ValueError, r"slide 's03': obs\['kind'\] has several values, 'a', 'b'.*slide_key="),
        (_several_patients, ValueError, r"slide 's03': obs\['patient'\] has several values"),
        (_empty_bag, ValueError, "slide 's03': none of its 36 patches has every representation"),
        (_other_width, ValueError, "slide 's03' has 4 features in 'X_f', but 's00' has 8"),
        (_no_patient, KeyError, r"s03: groupby='patient' is not in obs; columns: .*groupby=None"),
        (_one_class, ValueError, "label_key='kind': all labels are 'a'; .* at least two"),
        (_rare_class, ValueError, r"fold \d: the other folds have fewer than 1 slide of 'b'.*a: 11, b: 1\)"),
        (_one_patient, ValueError, "n_folds=3: there is 1 patient with labels"),
        (_same_name, ValueError, "two slides are named 's00'"),
    ],
)
def test_slides_that_cannot_be_told_apart_or_parted(twelve, change, error, said):
    change(twelve)
    with pytest.raises(error, match=said):
        run(twelve)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"head": "max"}, ValueError, "head='max': expected one of 'mean', 'abmil', 'transmil'"),
        ({"head": ["mean", "mean"]}, ValueError, r"head=\['mean', 'mean'\]: .* a list without repeats"),
        ({"head": "transmil", "hidden": 12}, ValueError, "hidden=12: expected a multiple of 8"),
        ({"label_key": "grade"}, KeyError, "label_key='grade' is not in obs"),
        ({"use_rep": "X_g"}, KeyError, "use_rep='X_g' is not in obsm"),
        ({"use_rep": None}, ValueError, "use_rep=None: samples need the obsm key"),
        ({"n_folds": 1}, ValueError, "n_folds=1: expected a whole number of at least 2"),
        ({"n_folds": 13}, ValueError, "n_folds=13: there are 12 patients"),
        ({"shots": 5}, ValueError, r"the other folds have fewer than 5 slides of"),
        ({"shots": 0}, ValueError, "shots=0: expected a whole number of at least 1"),
        ({"n_repeats": 0}, ValueError, "n_repeats=0: expected"),
        ({"scaling": "section"}, ValueError, "scaling='section': expected one of 'block', 'train', 'none'"),
        ({"class_weights": "yes"}, ValueError, "class_weights='yes': expected True or False"),
        ({"return_predictions": 1}, ValueError, "return_predictions=1: expected True or False"),
        ({"head": 3}, ValueError, "head=3: expected one of 'mean'"),
        ({"dropout": float("nan")}, ValueError, "dropout=nan: expected a number from 0 to below 1"),
        ({"lr": [1e-4]}, ValueError, r"lr=\[0.0001\]: expected a positive number"),
        ({"label_key": ["kind"]}, ValueError, r"label_key=\['kind'\]: expected a name"),
        ({"shots": "2"}, ValueError, "shots='2': expected a whole number"),
        ({"inner_val": 0.9}, ValueError, "inner_val=0.9: expected a number from 0 to 0.5"),
        ({"lr": 0}, ValueError, "lr=0: expected a positive number"),
        ({"lr": 1e30, "head": "abmil"}, NonFiniteLossError, r"X_f, abmil, fold 0: bag \d+: the loss is nan"),
        ({"device": "gpu"}, ValueError, "device='gpu' is not a torch device"),
        ({"key_added": "a/b"}, ValueError, "key_added='a/b' cannot be stored"),
    ],
)
def test_arguments_that_have_no_meaning(twelve, options, error, said):
    with pytest.raises(error, match=said):
        run(twelve, **options)


def test_whole_numbers_are_one_patient_in_any_type(twelve):
    for i, sample in enumerate(twelve):
        number = [i // 2, float(i // 2)][i % 2]
        sample["table"].obs["pat"] = pd.Categorical([number] * sample["table"].n_obs)
        sample["table"].obs["fold"] = f"f{i % 2}"
    with pytest.raises(ValueError, match="fold"):
        run(twelve, groupby="pat", fold_key="fold")


def test_results_and_attention_do_not_replace_what_is_read(twelve):
    with pytest.raises(ValueError, match="key_added='spade' is the key of records about the object"):
        run(twelve[0], key_added="spade")
    label = twelve[0]["table"].obs.columns[-1]
    for key, said in (("kind", "would replace obs"), ("region", "cannot be written as obs")):
        with pytest.raises(ValueError, match=said):
            sp.tl.attention(twelve, label_key="kind", use_rep="X_f", key_added=key, n_epochs=1)
    assert label in twelve[0]["table"].obs


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_epochs": 3, "hidden": 8}, "hidden=8: head='mean' has no such setting; leave hidden= out"),
        ({"patience": 2}, "patience=2: head='mean' has no such setting"),
        ({"head": ["abmil", "transmil"], "C": 1.0}, "C=1.0: head='abmil', 'transmil' has no such setting"),
        ({"fold_key": "part", "n_folds": 3}, "n_folds=3: fold_key='part' says which fold a slide is in"),
    ],
)
def test_settings_that_the_head_does_not_have_are_refused(options, said, twelve):
    with pytest.raises(ValueError, match=f"^{said.replace('.', '[.]')}"):
        sp.tl.slide_task(twelve, label_key="kind", use_rep="X_f", **options)
