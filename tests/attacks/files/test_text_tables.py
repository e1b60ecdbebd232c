"""Text tables as spreadsheets and pipelines write them: byte order marks, semicolons, comments, names with blanks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.sections import tiny, warns_here
from PIL import Image

import spade as sp

BOM = "\ufeff"
FORMS = {
    "plain": lambda text: text,
    "byte order mark": lambda text: BOM + text,
    "semicolons": lambda text: text.replace("\t", ";"),
    "commas": lambda text: text.replace("\t", ","),
    "comments": lambda text: f"# made by a pipeline\n#\n{text}# end\n",
    "all": lambda text: BOM + "# exported; 2024\n\n" + text.replace("\t", ";").replace("\n", "\r\n"),
}


@pytest.fixture(params=list(FORMS))
def form(request):
    return FORMS[request.param]


@pytest.fixture
def section(tmp_path, form):
    """Write the files of a section in one form."""
    Image.new("RGB", (320, 340), "pink").save(tmp_path / "he.png")
    spots = [(2, 3), (3, 3), (2, 4)]
    files = {
        "counts.tsv": "\tActb\tGapdh\n2x3\t1\t0\n3x3\t0\t4\n2x4\t5\t2\n",
        "spots.tsv": "x\ty\tpixel_x\tpixel_y\n" + "".join(f"{x}\t{y}\t{x * 10}\t{y * 10}\n" for x, y in spots),
        "labels.tsv": "x\ty\tlabel\n" + "".join(f"{x}\t{y}\tL{y}\n" for x, y in spots),
        "hot.tsv": "\t2_3\t3_3\t2_4\nL3\t1\t1\t0\nL4\t0\t0\t1\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_bytes(form(text).encode())
    return tmp_path


@pytest.mark.parametrize("labels", ["labels.tsv", "hot.tsv"])
def test_counts_spots_and_labels(section, labels):
    table = sp.io.read_st(*(section / n for n in ("counts.tsv", "he.png", "spots.tsv")), labels=section / labels)[
        "table"
    ]
    assert table.X.toarray().tolist() == [[1, 0], [0, 4], [5, 2]]
    assert list(table.var_names) == ["Actb", "Gapdh"]
    assert table.obsm["spatial"].tolist() == [[20, 30], [30, 30], [20, 40]]
    assert list(table.obs["label"]) == ["L3", "L3", "L4"]


@pytest.mark.parametrize("separator", [" ", "\n", "\t"])
def test_alignments(tmp_path, separator):
    Image.new("RGB", (320, 340), "pink").save(tmp_path / "he.png")
    (tmp_path / "counts.tsv").write_text("\tA\n2x3\t1\n3x3\t0\n2x4\t5\n")
    numbers = separator.join(map(str, (10, 0, 1, 0, 10, 2, 0, 0, 1)))
    (tmp_path / "m.txt").write_text(f"{BOM}# array to pixels\n{numbers}\n")
    table = sp.io.read_st(tmp_path / "counts.tsv", tmp_path / "he.png", tmp_path / "m.txt")["table"]
    assert table.obsm["spatial"].tolist() == [[21, 32], [31, 32], [21, 42]]


def test_labels_of_samples_and_spots(tmp_path, form):
    (tmp_path / "a.csv").write_bytes(form("sample\tspot\tlayer\nA\ts1\tL1\nA\ts2\t\n").encode())
    frame = sp.io.read_annotations(tmp_path / "a.csv")
    assert frame.columns.tolist() == ["sample", "spot", "layer"]
    assert frame["layer"].fillna("").tolist() == ["L1", ""]


@pytest.mark.parametrize("text", ["#sample,layer\nA,L1\nB,L2\n", "sample,layer\nA,L1\n#B,L2\n"])
def test_a_line_that_may_be_no_comment_is_not_left_out(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=r"a\.csv': line \d begins with '#' but has as many fields as the table"):
        sp.io.read_annotations(tmp_path / "a.csv")


def test_line_numbers_count_comments(tmp_path):
    (tmp_path / "a.csv").write_text("# one\nsample,layer\n# three\nA,L1,more\n")
    with pytest.raises(ValueError, match="differs in lines: 4"):
        sp.io.read_annotations(tmp_path / "a.csv")


def test_a_first_line_that_is_a_spot_is_no_line_of_genes(tmp_path):
    Image.new("RGB", (320, 340), "pink").save(tmp_path / "he.png")
    (tmp_path / "counts.tsv").write_text("# genes: A B\n2x3\t1\t0\n3x3\t0\t4\n2x4\t5\t2\n")
    with pytest.raises(ValueError, match=r"the first line is that of a spot, '2x3'; expected gene names"):
        sp.io.read_st(tmp_path / "counts.tsv", tmp_path / "he.png")


def test_a_column_whose_name_has_blanks(tmp_path):
    sdata = tiny(6)
    (tmp_path / "a.csv").write_text(
        "spot;Pathologist Annotations\n" + "".join(f"s{i:02d};t{i % 2}\n" for i in range(6))
    )
    with warns_here(r"'Pathologist Annotations' as obs\['Pathologist_Annotations'\]"):
        sp.pp.label_patches(sdata, tmp_path / "a.csv")
    assert sdata["table"].obs["Pathologist_Annotations"].tolist() == ["t0", "t1"] * 3
    sp.pp.label_patches(sdata, tmp_path / "a.csv", columns="Pathologist Annotations", key_added="layer")
    assert sdata["table"].obs["layer"].tolist() == ["t0", "t1"] * 3
    sp.io.write(sdata, tmp_path / "a.zarr")


@pytest.mark.parametrize(("names", "said"), [(["a b", "a_b"], "would be stored as 'a_b'"), (["%"], "'%' cannot be st")])
def test_names_that_cannot_be_told_apart_or_stored(names, said):
    frame = pd.DataFrame({"spot": [f"s{i:02d}" for i in range(6)], **{name: np.arange(6) for name in names}})
    with pytest.raises(ValueError, match=said):
        sp.pp.label_patches(tiny(6), frame)
