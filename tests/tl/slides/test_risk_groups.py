"""Groups of patients for survival curves, without a plot."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from spade.tl._slides.risks.risk_groups import risk_groups

PATIENTS = {"time": [5, 8, 12, 3], "event": [1, 0, 1, 1]}


def risks(risk=(4.0, 3.0, 2.0, 1.0), name="a"):
    facts = {"representation": name, "repeat": 0, "fold": 0, "patient": list("wxyz")}
    return pd.DataFrame(facts | PATIENTS).assign(risk=risk)


def test_patients_are_divided_by_their_risk():
    groups = risk_groups(pd.concat([risks(), risks(risk=(1.0, 2.0, 3.0, 4.0), name="b")]))
    assert {name: found.group.tolist() for name, found in groups.items()} == {
        "a": ["high risk", "high risk", "low risk", "low risk"],
        "b": ["low risk", "low risk", "high risk", "high risk"],
    }
    (only,) = risk_groups(risks(), n_groups=4).values()
    assert only.group.tolist() == [f"risk {i} of 4" for i in (4, 3, 2, 1)]
    assert only.time.tolist() == PATIENTS["time"]
    assert only.event.tolist() == [True, False, True, True]


def test_given_groups_are_columns_or_one_label_per_row():
    by_list = risk_groups(PATIENTS, groups=["p", "p", "q", "q"])[""]
    by_column = risk_groups(PATIENTS | {"arm": ["p", "p", "q", "q"]}, groups="arm")[""]
    assert by_list.group.tolist() == by_column.group.tolist() == ["p", "p", "q", "q"]
    assert len(risk_groups(pd.concat([risks(), risks(name="b")]), groups=list("ppqq") * 2)[""].time) == 4


@pytest.mark.parametrize(
    ("table", "options", "error", "said"),
    [
        (3, {}, TypeError, "table: got int"),
        ({"time": 3, "event": [1]}, {"groups": "a"}, ValueError, "table: expected one value per patient"),
        ({"time": [3.0]}, {}, ValueError, "table lacks 'event'"),
        (PATIENTS, {"groups": "arm"}, KeyError, "groups='arm' is not in the table"),
        (PATIENTS, {"groups": ["a"]}, ValueError, "groups: got 1 label for 4 rows"),
        (PATIENTS, {"groups": 3}, ValueError, r"groups: got an array of shape \(\) for 4 rows"),
        (PATIENTS, {"groups": ["a", None, "b", "b"]}, ValueError, "groups: 1 of 4 rows have none"),
        (PATIENTS, {"groups": np.ones((4, 2))}, ValueError, r"groups: got an array of shape \(4, 2\)"),
        (risks(), {"representation": "x"}, KeyError, "representation='x' is not in the table; representations: 'a'"),
        (risks(risk=[1.0] * 4), {}, ValueError, "n_groups=2: all risks of 'a' are equal"),
    ],
)
def test_what_cannot_be_grouped_is_refused(table, options, error, said):
    with pytest.raises(error, match=said):
        risk_groups(table, **options)
