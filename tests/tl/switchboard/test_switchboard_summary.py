"""Summaries of the switchboard, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.switchboard import KEYS

import spade as sp


def small():
    """Two patients of one section, and one of two; two seeds of the variant."""
    facts = {"task": "expression", "metric": "pearson", "direction": "", "shots": 0, "chance": 0.0, "by": "probe"}
    rows = []
    frozen = {"s": 0.1, "t": 0.2, "u": 0.3, "v": 0.5}
    gains = {"s": (0.1, 0.3), "t": (0.2, 0.2), "u": (0.0, 0.2), "v": (0.3, 0.3)}
    group = {"s": "p", "t": "q", "u": "r", "v": "r"}
    for unit, value in frozen.items():
        own = {"unit": unit, "group": group[unit], "fold": group[unit]} | facts
        rows.append(own | {"variant": "frozen", "seed": 0, "value": value})
        for seed, gain in enumerate(gains[unit]):
            rows.append(own | {"variant": "up", "seed": seed, "value": value + gain})
            rows.append(own | {"variant": "up", "seed": seed, "value": value - gain, "by": "model"})
            rows.append(own | {"variant": "flat", "seed": seed, "value": value})
    return pd.DataFrame(rows)


def test_summary_by_hand():
    found = sp.tl.switchboard_summary(small()).set_index(["variant", "by"])
    # patients: p 0.1, q 0.2, r mean of 0.3 and 0.5; gains 0.2, 0.2, mean of 0.1 and 0.3
    assert found["n_units"].tolist() == [3] * 4
    assert found.loc["frozen", "probe"]["mean"] == pytest.approx((0.1 + 0.2 + 0.4) / 3)
    assert found.loc["up", "probe"]["mean"] == pytest.approx((0.3 + 0.4 + 0.6) / 3)
    assert found["difference"].to_dict() == pytest.approx(
        {("frozen", "probe"): 0, ("up", "probe"): 0.2, ("up", "model"): -0.2, ("flat", "probe"): 0}
    )
    up = found.loc["up", "probe"]
    assert up["difference_low"] == pytest.approx(0.2)  # every patient gains as much
    assert up["difference_high"] == pytest.approx(0.2)
    assert found.loc["frozen", "probe"]["low"] == pytest.approx(0.1)
    assert found.loc["frozen", "probe"]["high"] == pytest.approx(0.4)
    assert np.isnan(found.loc["frozen", "probe"]["p"])
    assert found["p"].iloc[1:].to_dict() == {("up", "probe"): 2 / 8, ("up", "model"): 2 / 8, ("flat", "probe"): 1.0}
    # Holm over three comparisons: 3 × 1/4, 2 × 1/4 lifted to it, 1
    assert found["p_corrected"].iloc[1:].tolist() == [0.75, 0.75, 1.0]
    assert (found["chance"] == 0).all()


def test_summary_over_sections_and_another_baseline():
    table = small()
    found = sp.tl.switchboard_summary(table, over="unit", baseline="up").set_index(["variant", "by"])
    assert (found["n_units"] == 4).all()
    assert found.loc["frozen", "probe"]["mean"] == pytest.approx(0.275)
    assert found.loc["frozen", "probe"]["difference"] == pytest.approx(-0.2)
    assert found.loc["up", "model"]["difference"] == 0  # its own, not that of its probe
    assert found.loc["frozen", "probe"]["difference_low"] < -0.2 < found.loc["frozen", "probe"]["difference_high"]
    narrow = sp.tl.switchboard_summary(table, over="unit", baseline="up", level=0.5).set_index(["variant", "by"])
    assert narrow.loc["frozen", "probe"]["low"] > found.loc["frozen", "probe"]["low"]


def test_one_unit_has_no_interval():
    table = small()
    found = sp.tl.switchboard_summary(table[table["group"] == "p"])
    assert found[["low", "high", "difference_low"]].isna().all(axis=None)
    assert found["p"].dropna().tolist() == [1.0, 1.0, 1.0]


def test_a_way_through_a_file_changes_no_summary(table, tmp_path):
    table.to_csv(tmp_path / "t.csv", index=False)
    again = sp.tl.switchboard_summary(pd.read_csv(tmp_path / "t.csv"), n_boot=200)
    pd.testing.assert_frame_equal(again, sp.tl.switchboard_summary(table, n_boot=200))
    assert len(again) == len(table.drop_duplicates(["variant", *KEYS[1:]]))


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (lambda t: t.to_dict(), {}, TypeError, "table: got dict; expected what sp.tl.switchboard returned"),
        (lambda t: t.drop(columns="by"), {}, ValueError, "table lacks 'by'"),
        (lambda t: t.iloc[:0], {}, ValueError, "table is empty"),
        (lambda t: pd.concat([t, t]), {}, ValueError, "occur more than once"),
        (lambda t: t, {"baseline": "frosen"}, KeyError, r"baseline='frosen' is not in the table; "
         r"variants: 'frozen', 'up', 'flat'"),
        (lambda t: t, {"over": "patient"}, ValueError, "over='patient': expected one of 'group', 'unit'"),
        (lambda t: t, {"level": 95}, ValueError, "level=95"),
        (lambda t: t, {"n_boot": 0}, ValueError, "n_boot=0: expected a whole number of at least 1"),
    ],
)  # fmt: skip
def test_summary_errors(change, options, error, match):
    with pytest.raises(error, match=match):
        sp.tl.switchboard_summary(change(small()), **options)
