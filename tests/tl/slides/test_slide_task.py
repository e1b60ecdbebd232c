"""Slide tasks on slides whose class a few planted patches decide; files as others write them; what users get wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.sections import featured, spoil
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from spatialdata import read_zarr

import spade as sp
from spade.core.errors import NonFiniteLossError
from spade.core.evaluation.metrics import macro_auroc
from spade.io._feature_files import read_feature_file
from spade.tl._slides.bags import read_bags

FAST = {"hidden": 16, "lr": 5e-3, "n_epochs": 12, "device": "cpu"}


def slide(i, n=36, width=8, patient=None, n_planted=3):
    """Slide ``i``: in class ``b`` a feature is high in a few patches; in all slides it is low in others, some more, some fewer, so
    that its mean tells little.
    """
    sample = featured(n, width=width, name=f"s{i:02d}", seed=i)
    rng = np.random.default_rng(i)
    x = rng.normal(size=(n, width)).astype(np.float32)
    rows = rng.permutation(n)
    planted, low = rows[: n_planted * (i % 2)], rows[n_planted : n_planted + int(rng.integers(0, 9))]
    x[planted, 0] += 5
    x[low, 0] -= 5
    table = sample["table"]
    table.obsm["X_f"] = x
    table.obsm["X_noise"] = rng.normal(size=(n, 4)).astype(np.float32)
    table.obs["kind"] = "ab"[i % 2]
    table.obs["patient"] = patient or f"p{i}"
    table.obs["planted"] = np.isin(np.arange(n), planted)
    return sample


@pytest.fixture(scope="module")
def _twelve():
    return [slide(i) for i in range(12)]


@pytest.fixture
def twelve(_twelve):
    from conftest import fresh

    return [fresh(one) for one in _twelve]


def run(samples, **options):
    return sp.tl.slide_task(samples, **{"label_key": "kind", "use_rep": "X_f", "n_folds": 3, **FAST, **options})


def write_h5(path, x, coords=None, three=False, **more):
    with h5py.File(path, "w") as file:
        file["features"] = x[None] if three else x
        file["coords"] = np.zeros((len(x), 2), dtype=np.int64) if coords is None else coords
        for name, value in more.items():
            file[name] = value


@pytest.fixture
def files(tmp_path, twelve):
    """The same slides as feature files, and their labels."""
    folder = tmp_path / "features"
    folder.mkdir()
    for i, sample in enumerate(twelve):
        write_h5(folder / f"s{i:02d}.h5", sample["table"].obsm["X_f"], three=i % 2 == 0)
    labels = pd.DataFrame(
        {"sample": [f"s{i:02d}" for i in range(12)], "kind": [*"ab"] * 6, "patient": [f"p{i}" for i in range(12)]}
    )
    return folder, labels


# --- scores


def test_the_mean_probe_is_that_of_scikit_learn(twelve):
    table, slides = run(twelve, return_predictions=True)
    x = np.stack([one["table"].obsm["X_f"].mean(0, dtype=np.float64) for one in twelve])
    y = np.arange(12) % 2
    assert sorted(slides["slide"]) == [f"s{i:02d}" for i in range(12)]
    for unit, own in slides.groupby("unit"):
        query = own["slide"].str[1:].astype(int).to_numpy()
        train = np.setdiff1d(np.arange(12), query)
        mean, deviation = x[train].mean(0), x[train].std(0)
        model = LogisticRegression(C=8 * 2 / 100, max_iter=10_000, class_weight="balanced", tol=1e-8)
        p = model.fit((x[train] - mean) / deviation, y[train]).predict_proba((x[query] - mean) / deviation)
        np.testing.assert_allclose(own[["probability_a", "probability_b"]], p, atol=1e-3)
        value = table[table["unit"] == unit].set_index("metric")["value"]
        assert value["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y[query], p.argmax(1)))
        assert value["macro_auroc"] == pytest.approx(roc_auc_score(y[query], p[:, 1]))
    accuracy = table[table["metric"] == "accuracy"]
    assert set(accuracy["unit"]) == {f"p{i}" for i in range(12)}
    assert accuracy["value"].mean() == pytest.approx((slides["label"] == slides["predicted"]).mean())


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
    with pytest.raises(ValueError, match="a has slides of 'a' alone"):
        run(twelve, fold_key="part")


def test_shots_come_from_the_other_folds_and_more_add_to_fewer(twelve, monkeypatch):
    from spade.tl._slides import slide_task as _slide_task

    seen = []
    real = _slide_task.fit
    monkeypatch.setattr(
        _slide_task, "fit", lambda s, n, m, h, train, *rest: seen.append(train) or real(s, n, m, h, train, *rest)
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


# --- feature files


def test_feature_files_give_what_samples_give(files, twelve):
    folder, labels = files
    options = {"head": ["mean", "abmil"], "n_epochs": 2}
    of_files = run(folder, use_rep=None, labels=labels.sample(frac=1, random_state=0), **options)
    of_samples = run(twelve, **options)
    np.testing.assert_allclose(of_files["value"], of_samples["value"])
    listed = run([str(path) for path in folder.iterdir()], use_rep=None, labels=labels, **options)
    pd.testing.assert_frame_equal(listed, of_files)


def test_folders_are_representations_on_the_same_folds(files, tmp_path):
    folder, labels = files
    other = tmp_path / "pt"
    other.mkdir()
    for path in folder.iterdir():
        torch.save(torch.from_numpy(read_feature_file(path)).half(), other / f"{path.stem}.pt")
    table = run({"uni": folder, "half": other}, use_rep=None, labels=labels)
    one, half = (table[table["representation"] == name].reset_index(drop=True) for name in ("uni", "half"))
    np.testing.assert_allclose(one["value"], half["value"], atol=1e-2)
    (other / "s03.pt").unlink()
    with pytest.raises(ValueError, match="'uni' and 'half' are not of the same slides; only one of them has 's03'"):
        run({"uni": folder, "half": other}, use_rep=None, labels=labels)


def test_tensors_in_all_their_forms(tmp_path):
    x = torch.randn(5, 4)
    torch.save(x, tmp_path / "bare.pt")
    torch.save(x[None], tmp_path / "three.pt")
    torch.save({"features": x, "coords": torch.zeros(5, 2)}, tmp_path / "dict.pt")
    torch.save(x, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(read_feature_file(path), x.numpy())


def test_rows_of_files_that_are_nan_are_left_out(tmp_path):
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    x[2] = np.nan
    write_h5(tmp_path / "a.h5", x)
    np.testing.assert_array_equal(read_feature_file(tmp_path / "a.h5"), x[[0, 1, 3, 4]])
    x[1, 1] = np.inf
    write_h5(tmp_path / "a.h5", x)
    with pytest.raises(ValueError, match=r"slide 'a': .* has 1 rows with NaN or infinite values"):
        read_feature_file(tmp_path / "a.h5")
    write_h5(tmp_path / "a.h5", np.full((3, 4), np.nan))
    with pytest.raises(ValueError, match="has NaN alone"):
        read_feature_file(tmp_path / "a.h5")


def spoil_file(folder: Path, how: str) -> None:
    path = folder / "s05.h5"
    x = read_feature_file(path)
    if how == "cut off":
        path.write_bytes(path.read_bytes()[:-200])
    elif how == "no h5":
        path.write_bytes(b"not at all")
    elif how == "empty":
        write_h5(path, x[:0])
    elif how == "narrow":
        write_h5(path, x[:, :5])
    elif how == "coords":
        write_h5(path, x, np.zeros((7, 2)))
    elif how == "coords of three":
        write_h5(path, x, np.zeros((len(x), 3)))
    elif how == "half written":
        with h5py.File(path, "w") as file:
            file.create_dataset("features", (36, 8), "f4", chunks=(9, 8))[:18] = x[:18]
    elif how == "never written":
        with h5py.File(path, "w") as file:
            file.create_dataset("features", (36, 8), "f4")
    elif how == "flat":
        write_h5(path, x[0])
    elif how == "whole numbers":
        write_h5(path, x.astype(np.int32))
    elif how == "other name":
        with h5py.File(path, "w") as file:
            file["feats"] = x
    elif how == "twice":
        torch.save(torch.from_numpy(x), folder / "s05.pt")
    else:
        path.unlink()
        tensors = {
            "dict": {"features": [1]},
            "coords of pt": {"features": torch.ones(3, 8), "coords": torch.ones(4, 2)},
        }
        torch.save(tensors.get(how, torch.ones(0, 8)), folder / "s05.pt")
        if how == "cut pt":
            torch.save(torch.ones(300, 8), folder / "s05.pt")
            (folder / "s05.pt").write_bytes((folder / "s05.pt").read_bytes()[:900])


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ("cut off", ValueError, r"slide 's05': .*cannot be read \(.*was the file cut off"),
        ("no h5", ValueError, r"slide 's05': .*cannot be read \("),
        ("empty", ValueError, r"slide 's05': .*has no patches\. Leave the slide out"),
        ("narrow", ValueError, "slide 's05' has 5 features in 'features', but 's00' has 8"),
        (
            "coords",
            ValueError,
            r"slide 's05': .*'coords' has shape \(7, 2\) beside features \(36, 8\); expected \(36, 2\)",
        ),
        ("coords of three", ValueError, r"'coords' has shape \(36, 3\)"),
        ("half written", ValueError, "slide 's05': .*'features' was not written to its end"),
        ("never written", ValueError, "'features' was not written to its end"),
        ("flat", ValueError, r"'features' has shape \(8,\); expected \(n, d\)"),
        ("whole numbers", ValueError, "is of type int32; expected floating-point"),
        ("other name", KeyError, "has no 'features'; there is 'feats'"),
        ("twice", ValueError, r"two files of slide 's05', .*s05\.h5.* and .*s05\.pt"),
        ("dict", ValueError, "slide 's05': .*holds list as features"),
        ("coords of pt", ValueError, r"'coords' has shape \(4, 2\) beside features \(3, 8\)"),
        ("empty pt", ValueError, "has no patches"),
        ("cut pt", ValueError, r"slide 's05': .*s05\.pt'"),
    ],
)
def test_files_that_are_damaged_or_something_else(files, how, error, said):
    folder, labels = files
    spoil_file(folder, how)
    with pytest.raises(error, match=said):
        run(folder, use_rep=None, labels=labels)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_objects_are_refused_and_not_executed(files, tmp_path, monkeypatch, zipped):
    folder, labels = files
    monkeypatch.chdir(tmp_path)
    (folder / "s05.h5").unlink()
    if zipped:
        torch.save({"features": torch.ones(3, 8), "more": Bomb()}, folder / "s05.pt")
    else:
        (folder / "s05.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"slide 's05': .* holds more than tensors, or is damaged"):
        run(folder, use_rep=None, labels=labels)
    assert not (tmp_path / "exploded").exists()


def test_labels_and_files_are_matched_both_ways(files):
    folder, labels = files

    def fails(error, said, table, **options):
        with pytest.raises(error, match=said):
            run(folder, **{"use_rep": None, "labels": table, **options})

    fails(KeyError, "labels: 's11' of the slides have no row", labels[:-1])
    more = pd.concat([labels, pd.DataFrame({"sample": ["s12"], "kind": ["a"], "patient": ["p"]})])
    fails(KeyError, "labels: 's12' are no slides", more)
    fails(ValueError, "labels: 1 samples occur more than once, 's00'", pd.concat([labels, labels[:1]]))
    fails(
        KeyError,
        "labels: label_key='grade' is not a column; columns: 'sample', 'kind', 'patient'",
        labels,
        label_key="grade",
    )
    fails(KeyError, "groupby='patient' is not a column.*Pass groupby=None", labels.drop(columns="patient"))
    fails(ValueError, "expected one row per slide, named in a column 'sample'", labels.rename(columns={"sample": "x"}))
    fails(TypeError, "labels: got dict; expected a DataFrame", {})
    fails(ValueError, "labels=None: feature files have no labels", None)
    fails(ValueError, "use_rep= has no meaning for feature files", labels, use_rep="X_f")
    lacking = labels.assign(patient=labels["patient"].where(labels["sample"] != "s02"))
    fails(ValueError, "groupby='patient' is missing for 1 slides, 's02' first", lacking)


def test_sources_that_are_not_there(files, twelve, tmp_path):
    folder, labels = files
    for source, error, said in (
        (tmp_path / "nothing.h5", FileNotFoundError, r"there is no file .*nothing\.h5"),
        ([folder / "s00.h5", twelve[0]], ValueError, "1 of 2 items are feature files"),
        (tmp_path, ValueError, r"has no files ending in \.h5, .*; folders in it: 'features'"),
        ({}, ValueError, "bags is empty"),
        ([], ValueError, "samples is empty"),
        (3, TypeError, "samples: got int"),
    ):
        with pytest.raises(error, match=said):
            run(source, use_rep="X_f" if source in (3, []) else None, labels=labels)


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
        (_one_class, ValueError, "label_key='kind': all slides with a label are 'a'"),
        (_rare_class, ValueError, r"fold \d: the other folds have fewer than 1 slides of 'b'.*a: 11, b: 1\)"),
        (_one_patient, ValueError, "n_folds=3: there are 1 patients with labels"),
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
        ({"head": "max"}, ValueError, "head='max': expected 'mean', 'abmil', 'transmil'"),
        ({"head": ["mean", "mean"]}, ValueError, "a list of different ones"),
        ({"head": "transmil", "hidden": 12}, ValueError, "hidden=12: expected a multiple of 8"),
        ({"label_key": "grade"}, KeyError, "label_key='grade' is not in obs"),
        ({"use_rep": "X_g"}, KeyError, "use_rep='X_g' is not in obsm"),
        ({"use_rep": None}, ValueError, "use_rep=None: samples need the obsm key"),
        ({"n_folds": 1}, ValueError, "n_folds=1: expected a whole number of at least 2"),
        ({"n_folds": 13}, ValueError, "n_folds=13: there are 12 patients"),
        ({"shots": 5}, ValueError, r"the other folds have fewer than 5 slides of"),
        ({"shots": 0}, ValueError, "shots=0: expected a whole number of at least 1"),
        ({"n_repeats": 0}, ValueError, "n_repeats=0: expected"),
        ({"scaling": "section"}, ValueError, 'scaling=\'section\': expected "train" or "none"'),
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


# --- attention


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
        ({"head": "mean"}, ValueError, "head='mean': expected 'abmil', 'transmil'"),
        ({"head": ["abmil"]}, TypeError, r"head=\['abmil'\]: expected one head"),
        ({"use_rep": ["X_f", "X_noise"]}, TypeError, "expected one representation"),
        ({"label_key": "grade"}, KeyError, "s00: label_key='grade' is not in obs"),
    ],
)
def test_attention_that_there_is_not(twelve, options, error, said):
    with pytest.raises(error, match=said):
        sp.tl.attention(twelve, **{"label_key": "kind", "use_rep": "X_f", **FAST, **options})


def test_only_shapes_are_read_up_front(files, monkeypatch):
    folder, labels = files
    import spade.tl._slides.bags

    monkeypatch.setattr(spade.tl._slides.bags, "read_feature_file", lambda path: pytest.fail("read"))
    bags = read_bags(folder, named=None, columns={"label_key": "kind"}, labels=labels)
    assert len(bags) == 12
    assert bags.widths == {"features": 8}


def test_whole_numbers_are_one_patient_in_any_type(twelve):
    for i, sample in enumerate(twelve):
        number = [i // 2, float(i // 2)][i % 2]
        sample["table"].obs["pat"] = pd.Categorical([number] * sample["table"].n_obs)
        sample["table"].obs["fold"] = f"f{i % 2}"
    with pytest.raises(ValueError, match="fold"):
        run(twelve, groupby="pat", fold_key="fold")


def test_results_and_attention_do_not_replace_what_is_read(twelve):
    with pytest.raises(ValueError, match="key_added='spade' is where records of the object are kept"):
        run(twelve[0], key_added="spade")
    label = twelve[0]["table"].obs.columns[-1]
    for key, said in (("kind", "would replace obs"), ("region", "cannot be written as obs")):
        with pytest.raises(ValueError, match=said):
            sp.tl.attention(twelve, label_key="kind", use_rep="X_f", key_added=key, n_epochs=1)
    assert label in twelve[0]["table"].obs
