"""Slide tasks from feature files, as others write them and damaged."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.slides import run, write_h5, write_trident

import spade as sp
from spade import _keys
from spade.io._feature_files import read_feature_file
from spade.tl._slides.bags import read_bags


def test_feature_files_give_what_samples_give(files, twelve):
    folder, labels = files
    options = {"head": ["mean", "abmil"], "n_epochs": 2}
    of_files = run(folder, use_rep=None, labels=labels.sample(frac=1, random_state=0), **options)
    for sample in twelve:  # features in files are those of an encoder
        _keys.write_provenance(sample["table"].uns, "X_f", function="pp.encode_patches")
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
    with pytest.raises(ValueError, match="'uni' and 'half' differ in their slides; only one of them has 's03'"):
        run({"uni": folder, "half": other}, use_rep=None, labels=labels)


def test_files_of_two_encoders_of_one_width_are_refused(files):
    folder, labels = files
    path = folder / "s05.h5"
    x = read_feature_file(path)
    for name in ("s04", "s05"):
        write_trident(folder / f"{name}.h5", x, np.zeros((len(x), 2), int), encoder="uni_v1")
    run(folder, use_rep=None, labels=labels)
    write_trident(path, x, np.zeros((len(x), 2), int), encoder="conch_v15")
    with pytest.raises(
        ValueError, match=r"slide 's05' has features of encoder 'conch_v15' in .*, but 's04' of 'uni_v1'"
    ):
        run(folder, use_rep=None, labels=labels)


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
        ("cut off", ValueError, r"slide 's05': .*cannot be read .*was the file cut off"),
        ("no h5", ValueError, r"slide 's05': .*cannot be read as HDF5 "),
        ("empty", ValueError, r"slide 's05': .*has no patches\. Leave the slide out"),
        ("narrow", ValueError, "slide 's05' has 5 features in 'features', but 's00' has 8"),
        (
            "coords",
            ValueError,
            r"slide 's05': .*'coords' has shape \(7, 2\) beside features \(36, 8\); expected \(36, 2\)",
        ),
        ("coords of three", ValueError, r"'coords' has shape \(36, 3\)"),
        ("half written", ValueError, "slide 's05': .*'features' was not written completely"),
        ("never written", ValueError, "'features' was not written completely"),
        ("flat", ValueError, r"'features' has shape \(8,\); expected \(n, d\)"),
        ("whole numbers", ValueError, "is of type int32; expected floating-point"),
        ("other name", KeyError, "has no 'features'; it has 'feats'"),
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

    fails(KeyError, "labels: there is no row for 's11'", labels[:-1])
    more = pd.concat([labels, pd.DataFrame({"sample": ["s12"], "kind": ["a"], "patient": ["p"]})])
    fails(KeyError, "labels: 's12' are not slides", more)
    fails(ValueError, "labels: samples occur more than once: 's00'", pd.concat([labels, labels[:1]]))
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
    fails(ValueError, "groupby='patient' is missing for 1 slide with a label, such as 's02'", lacking)


def test_sources_that_are_not_there(files, twelve, tmp_path):
    folder, labels = files
    for source, error, said in (
        (tmp_path / "nothing.h5", FileNotFoundError, r"there is no file .*nothing\.h5"),
        ([folder / "s00.h5", twelve[0]], ValueError, "1 of 2 items are feature files"),
        (tmp_path, ValueError, r"holds neither stores nor feature files; folders in it: 'features'"),
        ({}, ValueError, "bags is empty"),
        ([], ValueError, "bags is empty"),
        (3, TypeError, "bags: got int"),
    ):
        with pytest.raises(error, match=said):
            run(source, use_rep="X_f" if source in (3, []) else None, labels=labels)


def test_only_shapes_are_read_up_front(files, monkeypatch):
    folder, labels = files
    import spade.tl._slides.bags

    monkeypatch.setattr(spade.tl._slides.bags, "read_feature_file", lambda path: pytest.fail("read"))
    bags = read_bags(folder, named=None, columns={"label_key": "kind"}, labels=labels)
    assert len(bags) == 12
    assert bags.widths == {"features": 8}


def test_attention_of_files_is_that_of_samples_in_files_of_their_own(files, twelve, tmp_path):
    folder, labels = files
    options = {"label_key": "kind", "labels": labels, "n_epochs": 2, "hidden": 8}
    for sample in twelve:  # features in files are those of an encoder
        _keys.write_provenance(sample["table"].uns, "X_f", function="pp.encode_patches")
    of_samples = sp.tl.attention(twelve, use_rep="X_f", **options)
    of_files = sp.tl.attention(folder, out=tmp_path / "a", **options)
    pd.testing.assert_frame_equal(of_files, of_samples)
    for sample, slide in zip(twelve, of_samples["slide"], strict=True):
        with h5py.File(tmp_path / "a" / f"{slide}.h5") as file:
            np.testing.assert_allclose(file["features"][:, 0], sample["table"].obs["kind_attention"], rtol=1e-5)
            assert file["coords"].shape == (36, 2)
    pd.testing.assert_frame_equal(sp.tl.attention(folder, out=tmp_path / "a", **options), of_files)
    with pytest.raises(
        ValueError, match=r"was not written by this call: seed is 0 instead of 1.*all files of the earl"
    ):
        sp.tl.attention(folder, out=tmp_path / "a", rng=1, **options)
    with pytest.raises(ValueError, match="use_rep= has no meaning for feature files"):
        sp.tl.attention(folder, out=tmp_path / "b", use_rep="X_f", **options)
    with pytest.raises(ValueError, match="out=None"):
        sp.tl.attention(folder, **options)


def test_a_folder_holds_the_attention_of_one_head(files, tmp_path):
    folder, labels = files
    options = {"label_key": "kind", "n_epochs": 2, "hidden": 8, "out": tmp_path / "a"}
    sp.tl.attention(folder, labels=labels, **options)
    changed = labels.assign(patient=[f"q{i // 2}" for i in range(12)])
    with pytest.raises(ValueError, match=r"'s00.h5' is there, .*: patients is .*remove all files of the earlier call"):
        sp.tl.attention(folder, labels=changed, **options)
    write_h5(folder / "s03.h5", np.random.default_rng(9).normal(size=(36, 8)))
    (tmp_path / "a" / "s03.h5").unlink()  # what is left is of a head that learnt from the earlier features
    with pytest.raises(ValueError, match=r"'s00.h5' is there, .*: learnt_from is .*remove all files of the earlier ca"):
        sp.tl.attention(folder, labels=labels, **options)
    assert not (tmp_path / "a" / "s03.h5").exists()


def test_slides_without_a_label_may_change_without_the_others(files, tmp_path):
    folder, labels = files
    labels = labels.assign(kind=labels["kind"].where(labels["sample"] != "s03"))
    options = {"label_key": "kind", "labels": labels, "n_epochs": 2, "hidden": 8, "out": tmp_path / "a"}
    sp.tl.attention(folder, **options)
    write_h5(folder / "s03.h5", np.random.default_rng(9).normal(size=(36, 8)))
    with pytest.raises(ValueError, match=r"'s03.h5' is there, .*: source_id is .*or remove the file"):
        sp.tl.attention(folder, **options)
    (tmp_path / "a" / "s03.h5").unlink()
    sp.tl.attention(folder, **options)
    assert (tmp_path / "a" / "s03.h5").exists()
