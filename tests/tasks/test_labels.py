"""Labels from the tables that data sets publish, in their own columns and codes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import spade as sp

#: The first lines of PANDA's train.csv.
PANDA = """image_id,data_provider,isup_grade,gleason_score
0005f7aaab2800f6170c399693a96917,karolinska,0,0+0
000920ad0b612851f8e01bcc880d9b3d,karolinska,0,0+0
0018ae58b01bdadc8e347995b69f99aa,radboud,4,4+4
"""
SPLITS = """case_id slide_id BAP1_mutation fold_0 fold_1 fold_10
19749 19749 0 train test train
0311 19311 1 test train train
"""


def test_grades_of_panda(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(PANDA)
    labels = sp.tasks.get("panda").labels(path)
    assert labels.columns.tolist() == ["sample", "label"]
    assert labels["label"].tolist() == ["0", "0", "4"]
    assert labels["sample"][2] == "0018ae58b01bdadc8e347995b69f99aa"
    pd.testing.assert_frame_equal(sp.tasks.get("panda").labels(pd.read_csv(path)), labels)
    pd.testing.assert_frame_equal(sp.tasks.get("panda").labels(str(path)), labels)


def test_a_split_table_keeps_patients_and_folds_in_order(tmp_path):
    path = tmp_path / "k=all.tsv"
    path.write_text(SPLITS.replace(" ", "\t"))
    labels = sp.tasks.get("cptac_ccrcc/BAP1_mutation").labels(path)
    assert labels.columns.tolist() == ["sample", "patient", "label", "fold_0", "fold_1", "fold_10"]
    assert labels.iloc[1].tolist() == ["19311", "0311", "mutant", "test", "train", "train"]
    codes = sp.tasks.get("mut-het-rcc/BAP1_mutation").labels(path)  # what its codes mean is unknown
    assert codes["label"].tolist() == ["0", "1"]


def test_times_and_events_are_taken_as_they_are():
    table = pd.DataFrame(
        {"case_id": ["a", "b"], "slide_id": ["a-21", "b-21"], "OS": [3, 6], "OS_event": [0, 1], "OS_days": [1837, 577]}
    )
    labels = sp.tasks.get("cptac_luad/OS").labels(table)
    assert labels.to_dict("list") == {
        "sample": ["a-21", "b-21"], "patient": ["a", "b"], "time": [1837, 577], "event": [0, 1]
    }  # fmt: skip


def test_numbers_that_became_floats_and_missing_labels():
    table = pd.DataFrame({"image_id": ["a", "b", "c"], "isup_grade": [5.0, np.nan, 1.0]})
    assert sp.tasks.get("panda").labels(table)["label"].tolist() == ["5", None, "1"]


def test_all_rows_of_ubc_ocean_are_kept():
    table = pd.DataFrame(
        {"image_id": [4, 66], "label": ["HGSC", "LGSC"], "image_width": 1, "image_height": 1, "is_tma": [False, True]}
    )
    assert sp.tasks.get("ubc_ocean").labels(table).values.tolist() == [["4", "HGSC"], ["66", "LGSC"]]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"isup_grade": [0, 6, 2]}, ValueError, r"panda: .*labels that the task does not have, '6'; it has '0', '1'"),
        ({"image_id": ["a", "a", "b"]}, ValueError, "more than once: 'a'"),
        ({"isup_grade": None}, KeyError, r"no 'isup_grade'; columns: .*Expected train\.csv"),
    ],
)
def test_tables_that_do_not_fit(change, error, message):
    table = pd.DataFrame({"image_id": ["a", "b", "c"], "isup_grade": [0, 1, 2]}).assign(**change)
    with pytest.raises(error, match=message):
        sp.tasks.get("panda").labels(table.dropna(axis=1, how="all"))


def test_a_fold_is_train_or_test():
    table = pd.DataFrame({"case_id": ["a"], "slide_id": ["a"], "response": [1], "fold_0": ["val"]})
    with pytest.raises(ValueError, match="column 'fold_0' has 'val'; expected 'train' and 'test'"):
        sp.tasks.get("nadt/response").labels(table)


def test_an_unknown_rule_is_said_with_what_is_known():
    with pytest.raises(ValueError, match=r"tcga_prad: which columns .* unknown\. .*four classes.*'sample', 'label'"):
        sp.tasks.get("tcga_prad").labels(pd.DataFrame({"Case ID": ["a"], "label": [0]}))
    with pytest.raises(ValueError, match="'sample', 'time', 'event'"):
        sp.tasks.get("bcr_survival").labels(pd.DataFrame({"slide_name": ["a"]}))
