"""Sample sheets as spreadsheets, scripts and people make them: read rightly, or one error that says what to do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from spade.io._files.sheets import read_sheet, sheet_rows


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "c d"):
        (tmp_path / f"{name}.h5").write_bytes(b"")
    return tmp_path


def written(folder, text, name="s.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


READ = {
    "commas": ("path,stage\na.h5,II\nb.h5,III\n", "s.csv", "utf-8"),
    "of Excel in German": ("\ufeffpath;stage\r\na.h5;II\r\nb.h5;III\r\n", "s.csv", "utf-8"),
    "tabs": ("path\tstage\na.h5\tII\nb.h5\tIII\n", "s.tsv", "utf-8"),
    "tabs in csv": ("path\tstage\na.h5\tII\nb.h5\tIII\n", "s.csv", "utf-8"),
    "spaces": (" path , stage \n a.h5 , II \n b.h5 ,III\n\n", "s.csv", "utf-8"),
    "quoted": ('"path","stage"\n"a.h5","II"\n"b.h5","III"\n', "s.csv", "utf-8"),
    "comment": ("# made by hand\npath,stage\na.h5,II\nb.h5,III\n", "s.csv", "utf-8"),
    "capitals of the suffix": ("path,stage\na.h5,II\nb.h5,III\n", "S.CSV", "utf-8"),
    "empty lines": ("path,stage\n\na.h5,II\n,\nb.h5,III\n\n", "s.csv", "utf-8"),
}


@pytest.mark.parametrize("how", READ)
def test_every_usual_form_is_read_alike(folder, how):
    text, name, encoding = READ[how]
    rows = read_sheet(written(folder, text, name, encoding), "samples")
    assert [(row.path, row.name, row.columns) for row in rows] == [
        (folder / "a.h5", "", {"stage": "II"}),
        (folder / "b.h5", "", {"stage": "III"}),
    ]


def test_values_are_what_they_look_like(folder):
    text = "path,name,code,age,size,sex,free\na.h5,1,007,61,1.5,NA,\nb.h5,2,12,,2,f,N/A\n"
    one, two = (row.columns for row in read_sheet(written(folder, text), "samples"))
    assert one == {"code": "007", "age": 61, "size": 1.5, "sex": "", "free": ""}
    assert two["code"] == "12"
    assert np.isnan(two["age"])
    assert two["sex"] == "f"


def test_names_and_paths_stay_as_they_are_written(folder):
    for name in ("1.10", "1E2"):
        (folder / name).mkdir()
    rows = read_sheet(written(folder, "path,name,patient\n1.10,2.10,1E2\n1E2,1E2,10E1\n"), "samples")
    assert [(row.path.name, row.name) for row in rows] == [("1.10", "2.10"), ("1E2", "1E2")]
    assert [row.columns["patient"] for row in rows] == ["1E2", "10E1"]  # two patients


def test_absolute_paths_and_paths_with_spaces(folder):
    rows = read_sheet(written(folder, f"path\n{folder / 'a.h5'}\nc d.h5\n./b.h5\n"), "samples")
    assert [row.path.name for row in rows] == ["a.h5", "c d.h5", "b.h5"]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("file,stage\na.h5,II\n", ValueError, r"no column 'path'; columns: 'file', 'stage'\. Rename 'file' to 'path'"),
        ("File Path,x\na.h5,II\n", ValueError, r"Rename 'File Path' to 'path'"),
        ("Path,x\na.h5,II\n", ValueError, r"Rename 'Path' to 'path'"),
        ("a,b\n1,2\n", ValueError, r"no column 'path'; columns: 'a', 'b'\. Add it: the path of every store"),
        ("path\n", ValueError, r"no more than one line"),
        ("", ValueError, r"no more than one line"),
        ("path,name\na.h5,x\nb.h5,\n", ValueError, r"rows have no name: 2, counted from the first row"),
        ("path,name\na.h5,x\n,y\n", ValueError, r"rows have no path: 2, counted"),
        ("path,name\nNaN,x\n", ValueError, r"rows have no path: 1, counted"),
        ("path,name\na.h5,x\nb.h5,x\n", ValueError, r"names occur more than once: 'x'\. Keep one row per sample"),
        ("path\na.h5\n./a.h5\n", ValueError, r"paths occur more than once: .*a\.h5"),
        ("path\na.h5\nz.h5\n", FileNotFoundError, r"1 path of 2 are not there: .*z\.h5'\. Paths are relative to "),
        ("path,name,sample\na.h5,x,y\n", ValueError, r"both 'name' and 'sample'; keep the one that names the samples"),
        ("path,x,x\na.h5,1,2\n", ValueError, r"columns of the same name, 'x'"),
        (",path\n0,a.h5\n", ValueError, r"a column without a name\. Give it one, or leave it out \(index=False\)"),
        ("path,tumour grade\na.h5,1\n", ValueError, r"'tumour grade' cannot be stored in obs\. .*'tumour_grade'"),
        ("path\ns3://bucket/a.zarr\n", ValueError, r"row 1='s3://bucket/a.zarr' is an address"),
        ("path,x\na.h5\n", ValueError, r"the number of fields differs in lines: 2"),
    ],
)
def test_a_sheet_that_cannot_be_right_is_refused(folder, text, error, said):
    with pytest.raises(error, match=said) as caught:
        read_sheet(written(folder, text), "samples")
    assert "s.csv" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_sheet_in_another_encoding_is_refused(folder):
    with pytest.raises(ValueError, match="is not a UTF-8 text file"):
        read_sheet(written(folder, "path,stage\na.h5,Größe\n", encoding="latin-1"), "samples")
    with pytest.raises(ValueError, match="is not a UTF-8 text file"):
        read_sheet(written(folder, "path,stage\na.h5,II\n", encoding="utf-16"), "samples")


@pytest.mark.parametrize(
    ("frame", "error", "said"),
    [
        (pd.DataFrame({"path": []}), ValueError, "has no rows; expected one per sample"),
        (pd.DataFrame({"path": ["a.h5", None]}), ValueError, "rows have no path: 2"),
        (pd.DataFrame({"path": ["a.h5", np.nan]}), ValueError, "rows have no path: 2"),
        (pd.DataFrame({"path": [3]}), TypeError, "row 1 has int as path; expected text"),
        (pd.DataFrame({"path": ["a.h5"], "name": [pd.NA]}), ValueError, "rows have no name: 1"),
        (pd.DataFrame({"path": ["a.h5", "b.h5"], 3: [1, 2], "3": [1, 2]}), ValueError, "columns of the same name, '3'"),
        (pd.DataFrame(np.zeros((50, 50))), ValueError, r"no column 'path'; columns: '0', .*\(50 in all\)"),
    ],
)
def test_a_table_that_cannot_be_a_sheet_is_refused(folder, frame, error, said):
    with pytest.raises(error, match=said) as caught:
        sheet_rows(frame, folder, "samples: the table")
    assert len(str(caught.value)) < 400


def test_a_table_may_have_any_index_and_kind_of_column(folder):
    frame = pd.DataFrame(
        {
            "path": [folder / "a.h5", "b.h5"],
            "day": pd.to_datetime(["2020-01-02", None]),
            "group": pd.Categorical(["x", None]),
            "n": pd.array([1, None], dtype="Int64"),
            "flag": [True, False],
        },
        index=[7, 7],
    )
    one, two = (row.columns for row in sheet_rows(frame, folder, "samples: the table"))
    assert one == {"day": "2020-01-02 00:00:00", "group": "x", "n": 1, "flag": True}
    assert two["day"] == two["group"] == ""
    assert np.isnan(two["n"])
    assert two["flag"] is False or two["flag"] == np.False_
