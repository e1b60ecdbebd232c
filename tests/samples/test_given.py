"""Folders, patterns and sample sheets in the place of samples."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from helpers.sections import featured
from helpers.slides import write_h5
from spatialdata import read_zarr

import spade as sp
from spade._samples.open import as_list, iter_samples, iter_slides

X = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def _cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for seed, name in enumerate(("b10", "a2", "c1")):
        sp.io.write(featured(name="", seed=seed), folder / f"{name}.zarr")
    (folder / "notes.txt").write_text("not a sample")
    (folder / ".hidden.zarr").mkdir()
    return folder


@pytest.fixture
def cohort(_cohort, tmp_path):
    return shutil.copytree(_cohort, tmp_path / "cohort")


def opened(samples, **kwargs):
    return list(iter_samples(samples, **kwargs))


def names(samples):
    return [sample.name for sample in opened(samples)]


def sheet(folder, text, name="samples.csv", encoding="utf-8"):
    (folder / name).write_text(text, encoding=encoding)
    return folder / name


def test_a_folder_stands_for_its_stores_sorted_by_name(cohort):
    assert names(cohort) == names(str(cohort)) == ["a2", "b10", "c1"]
    assert [slide.name for slide in iter_slides(cohort)] == ["a2", "b10", "c1"]
    assert [sample.path for sample in opened(cohort)] == sorted(cohort.glob("[abc]*.zarr"))


def test_a_pattern_stands_for_what_it_matches(cohort, monkeypatch):
    assert names(cohort / "*.zarr") == ["a2", "b10", "c1"]
    assert names(cohort / "[ac]?.zarr") == ["a2", "c1"]
    assert names([cohort / "a*.zarr", cohort / "c1.zarr"]) == ["a2", "c1"]
    monkeypatch.chdir(cohort.parent)
    assert names("**/b*.zarr") == ["b10"]


def test_a_folder_gives_what_its_stores_give(cohort):
    one = sp.tl.mixing(cohort, use_rep="X_f", n_neighbors=5)
    listed = sp.tl.mixing([cohort / f"{name}.zarr" for name in ("a2", "b10", "c1")], use_rep="X_f", n_neighbors=5)
    pd.testing.assert_frame_equal(one, listed)


def test_a_function_writes_into_every_store_of_a_folder(cohort):
    sp.pp.select_genes(cohort, min_genes=5, n_top_genes=5)
    for name in ("a2", "b10", "c1"):
        assert read_zarr(cohort / f"{name}.zarr")["table"].var["spade_gene"].any()


def test_a_sheet_names_samples_and_says_more_of_them(cohort):
    path = sheet(cohort, "path,name,patient_id,age,site\nc1.zarr,one,007,61,\nb10.zarr,two,008,,x\n")
    one, two = opened(path)
    assert [one.name, two.name] == ["one", "two"]
    assert [one.path, two.path] == [cohort / "c1.zarr", cohort / "b10.zarr"]
    assert set(one.table.obs["patient_id"]) == {"007"}
    assert set(one.table.obs["age"]) == {61}
    assert two.table.obs["age"].isna().all()
    assert one.table.obs["site"].isna().all()
    assert set(two.table.obs["site"]) == {"x"}


def test_a_sheet_without_names_leaves_the_names_as_they_are(cohort):
    assert names(sheet(cohort, "path\nc1.zarr\nb10.zarr\n")) == ["c1", "b10"]


def test_columns_of_a_sheet_serve_as_groups_and_labels(cohort):
    path = sheet(cohort, "path,hospital\na2.zarr,x\nb10.zarr,y\nc1.zarr,x\n")
    table = sp.tl.mixing(path, use_rep="X_f", groupby="hospital", n_neighbors=5)
    assert dict(zip(table["group"], table["n"], strict=True)) == {"x": 72, "y": 36}
    sp.pp.split(path, groupby="hospital", fractions=(0.5, 0.5, 0))
    roles = [set(read_zarr(cohort / f"{name}.zarr")["table"].obs["spade_split"]) for name in ("a2", "b10", "c1")]
    assert roles[0] == roles[2] != roles[1]


def test_reading_leaves_a_store_alone_and_saving_keeps_the_columns(cohort):
    path = sheet(cohort, "path,hospital,stage,age\na2.zarr,x,,61\nb10.zarr,y,II,\n")
    opened(path)
    assert "hospital" not in read_zarr(cohort / "a2.zarr")["table"].obs
    sp.pp.select_genes(path, min_genes=5, n_top_genes=5)
    obs = read_zarr(cohort / "a2.zarr")["table"].obs
    assert set(obs["hospital"]) == {"x"}
    assert set(obs["age"]) == {61}
    assert obs["stage"].isna().all()
    assert names(path) == ["a2", "b10"]  # the store and the sheet agree


def test_a_sheet_that_contradicts_a_table_is_an_error_that_names_both(cohort):
    path = sheet(cohort, "path,patient\na2.zarr,p9\n")
    with pytest.raises(ValueError, match=r"a2: the sample sheet says patient='p9', but obs\['patient'\].* has 'p_'"):
        opened(path)
    assert names(sheet(cohort, "path,patient\na2.zarr,p_\n")) == ["a2"]
    assert names(sheet(cohort, "path,patient\na2.zarr,\n")) == ["a2"]


def test_a_table_has_the_form_of_a_sheet(cohort, monkeypatch):
    monkeypatch.chdir(cohort)
    frame = pd.DataFrame({"path": ["a2.zarr", cohort / "c1.zarr"], "sample": [1, 2], "batch": [True, False]})
    one, two = opened(frame)
    assert [one.name, two.name] == ["1", "2"]
    assert one.table.obs["batch"].all()
    assert not two.table.obs["batch"].any()
    sp.pp.select_genes(frame, min_genes=5, n_top_genes=5)
    assert read_zarr("a2.zarr")["table"].obs["batch"].all()


def test_sheets_and_folders_are_queries_and_bags(cohort, tmp_path):
    from helpers.sections import train

    model = train(opened(cohort)[0].sdata)
    found = sp.tl.retrieve(str(cohort / "*.zarr"), sheet(cohort, "path\na2.zarr\n"), model, k=1)
    assert set(found["query_sample"]) == {"a2", "b10", "c1"}
    frame = pd.DataFrame({"path": [cohort / "a2.zarr"], "name": ["q"]})
    assert set(sp.tl.retrieve(frame, cohort, model, k=1)["query_section"]) == {"a2"}
    with pytest.raises(ValueError, match="classification needs at least two classes"):
        sp.tl.slide_task(cohort, label_key="kind", use_rep="X_f", groupby=None, labels=kinds("a"))


def kinds(*values):
    return pd.DataFrame({"sample": ["a2", "b10", "c1"], "kind": list(values * 3)[:3]})


def test_a_list_of_folders_is_one_list(cohort, tmp_path):
    (tmp_path / "more").mkdir()
    shutil.copytree(cohort / "a2.zarr", tmp_path / "more" / "a2.zarr")
    assert names([cohort, tmp_path / "more"]) == ["cohort/a2", "b10", "c1", "more/a2"]


def spoil(folder, how):
    if how == "empty":
        (folder.parent / "other" / "below").mkdir(parents=True)
        return folder.parent / "other"
    if how == "both":
        write_h5(folder / "s.h5", X)
        return folder
    if how == "damaged":
        (folder / "a2.zarr" / "zarr.json").unlink()
        return folder
    if how == "twice":
        for name in ("one", "two"):
            (folder / name).mkdir()
            write_h5(folder / name / "s.h5", X)
        return [folder / "one", folder / "two"]
    if how == "two forms":
        write_h5(folder.parent / "s.h5", X)
        return [folder / "a2.zarr", folder.parent / "s.h5"]
    if how == "several for a name":
        return {"cohort": folder}
    return folder / how


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        (
            "empty",
            ValueError,
            r"is not a zarr store and holds neither stores nor feature files; folders in it: 'below'",
        ),
        ("both", ValueError, r"cohort' stands for 1 feature file and 3 stores\. Name one kind"),
        ("damaged", ValueError, r"a2\.zarr' is not a zarr store"),
        ("twice", ValueError, r"two files of slide 's', .*one.s\.h5' and .*two.s\.h5'\. Keep one"),
        ("two forms", ValueError, r"1 of 2 items are feature files and the others are not"),
        (
            "several for a name",
            ValueError,
            r"'cohort' names .*cohort', which stands for 3 samples, but a name in a dic",
        ),
        ("*.zar", FileNotFoundError, r"nothing matches .*\*\.zar'\. A pattern names stores or feature files"),
        ("*", ValueError, r"1 match of .* are neither stores nor feature files: 'notes\.txt'\. Narrow the pattern"),
        ("no.zarr", FileNotFoundError, r"there is no store at .*no\.zarr'"),
        ("no.h5", FileNotFoundError, r"there is no file at .*no\.h5'"),
        ("no.csv", FileNotFoundError, r"there is no file .*no\.csv'"),
        ("notes.txt", ValueError, r"notes\.txt' is not a zarr store"),
        ("cohort.xlsx", ValueError, r"cohort\.xlsx' is a workbook\. Save the sheet as CSV"),
    ],
)
def test_places_that_stand_for_nothing_are_refused(cohort, how, error, said):
    with pytest.raises(error, match=f"^samples: .*{said}"):
        as_list(spoil(cohort, how))


def test_what_is_listed_twice_is_seen_through_folders_and_sheets(cohort):
    for samples in ([cohort, cohort / "a2.zarr"], [cohort / "a*.zarr", sheet(cohort, "path\na2.zarr\n")]):
        with pytest.raises(ValueError, match="listed more than once"):
            as_list(samples)
