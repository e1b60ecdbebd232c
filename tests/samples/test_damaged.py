"""A sample of a cohort that cannot be read: an error that names it, or the others go on."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from helpers.sections import featured
from helpers.slides import write_h5
from spatialdata import read_zarr

import spade as sp
from spade._samples.open import as_list, iter_samples

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def _stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    for seed, name in enumerate(NAMES):
        sdata = featured(name="", seed=seed)
        sdata["table"].obs["zone"] = pd.Categorical(np.where(np.arange(36) % 2, "near", "far"))
        sp.io.write(sdata, folder / f"{name}.zarr")
    return folder


@pytest.fixture
def folder(_stores, tmp_path):
    copy = shutil.copytree(_stores, tmp_path / "stores")
    frame = pd.DataFrame({"path": [f"{name}.zarr" for name in NAMES], "name": list("ABC"), "batch": [1, 2, 3]})
    frame.to_csv(copy / "samples.csv", index=False)
    return copy


def halve(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def damage(store, how):
    """Damage a store as an interrupted copy does."""
    if how == "without its root":
        (store / "zarr.json").unlink()
    elif how == "values":
        halve(max((store / "tables" / "table" / "X" / "data" / "c").rglob("*"), key=lambda file: file.stat().st_size))
    else:
        halve(store / how)


FORMS = {
    "sheet": lambda folder: folder / "samples.csv",
    "frame": lambda folder: pd.read_csv(folder / "samples.csv").assign(path=lambda f: str(folder) + "/" + f["path"]),
    "dict": lambda folder: {name.upper(): folder / f"{name}.zarr" for name in NAMES},
    "list": lambda folder: [folder / f"{name}.zarr" for name in NAMES],
    "folder": lambda folder: folder,
}


@pytest.mark.parametrize(
    ("form", "how"),
    [
        *((form, "zarr.json") for form in FORMS),
        *(("sheet", how) for how in ("tables/table/obs/zarr.json", "values", "without its root")),
    ],
)
def test_a_store_that_was_cut_off(folder, form, how, recwarn):
    damage(folder / "b.zarr", how)
    samples = FORMS[form](folder)
    for stops in (samples, sp.io.cohort(samples)):
        with pytest.raises(ValueError, match=r"b\.zarr") as error:
            list(iter_samples(stops))
        notes = "".join(getattr(error.value, "__notes__", []))
        assert how == "without its root" or "sp.io.cohort(samples, on_damaged=" in notes
    listed = as_list(sp.io.cohort(samples, on_damaged="skip"))
    recwarn.clear()
    expected = ["a", "c"] if form in ("list", "folder") else ["A", "C"]
    for _ in range(2):
        assert [sample.name for sample in iter_samples(listed, writes=True)] == expected
        assert [sample.name for sample in iter_samples(listed, tables_only=True)] == expected
    said = [str(warning.message) for warning in recwarn if "left out" in str(warning.message)]
    assert len(said) == 1
    assert said[0].startswith(f"{'b' if form in ('list', 'folder') else 'B'}: left out, as it cannot be read. ")
    assert "b.zarr" in said[0]


def test_tools_go_on_without_it(folder):
    """Labels are learned of the others, and written there with the columns of the sheet."""
    halve(folder / "b.zarr" / "shapes" / "spots" / "shapes.parquet")
    samples = sp.io.cohort(folder / "samples.csv", on_damaged="skip")
    with pytest.warns(UserWarning, match="B: left out") as said:
        sp.tl.annotate(samples, label_key="zone", use_rep="X_f")
    assert len([warning for warning in said if "left out" in str(warning.message)]) == 1
    assert read_zarr(folder / "a.zarr")["table"].obs["batch"].unique().tolist() == [1]
    assert "zone_predicted" in read_zarr(folder / "c.zarr")["table"].obs


def test_none_can_be_read(folder):
    for name in NAMES:
        halve(folder / f"{name}.zarr" / "zarr.json")
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match=r"c\.zarr"):
        list(iter_samples(sp.io.cohort(folder, on_damaged="skip")))


def test_feature_files(tmp_path):
    (tmp_path / "files").mkdir()
    for name in NAMES:
        write_h5(tmp_path / "files" / f"{name}.h5", np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32))
    halve(tmp_path / "files" / "b.h5")
    with pytest.raises(ValueError, match=r"b\.h5"):
        list(iter_samples(sp.io.cohort(tmp_path / "files")))
    with pytest.warns(UserWarning, match=r"b: left out, as it cannot be read\. .*b\.h5"):
        listed = as_list(sp.io.cohort(tmp_path / "files", on_damaged="skip"))
    assert [sample.name for sample in iter_samples(listed)] == ["a", "c"]
    assert len(listed) == 2


def test_what_is_refused(folder):
    with pytest.raises(ValueError, match="on_damaged='ignore': expected one of 'error', 'skip'"):
        sp.io.cohort(folder, on_damaged="ignore")
    with pytest.raises(FileNotFoundError, match="there is no store"):
        as_list(sp.io.cohort([folder / "d.zarr"], on_damaged="skip"))
