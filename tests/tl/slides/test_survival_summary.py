"""Summaries of survival results, by hand and by simulation."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers.survival import results, slow_concordance

import spade as sp


@pytest.mark.parametrize("compare", ["fold", "all"])
def test_summaries_are_means_over_repeats(compare):
    found = results(100)
    each = {
        (name, repeat): slow_concordance(
            *(own[c].to_numpy() for c in ("time", "event", "risk")),
            own["fold"].to_numpy() if compare == "fold" else None,
        )
        for (name, repeat), own in found.groupby(["representation", "repeat"])
    }
    summary = sp.tl.survival_summary(found, compare=compare, baseline="bad", n_boot=300).set_index("representation")
    for name in ("good", "bad"):
        assert summary.loc[name, "c_index"] == pytest.approx((each[name, 0] + each[name, 1]) / 2)
        assert summary.loc[name, "low"] < summary.loc[name, "c_index"] < summary.loc[name, "high"]
    assert summary.loc["good", "difference"] == pytest.approx(summary["c_index"].diff().iloc[1] * -1)
    assert summary.loc["good", "difference_low"] > 0
    assert summary.loc["bad", ["difference_low", "difference_high"]].tolist() == [0, 0]
    assert summary.loc["good", "n_patients"] == 100
    by_repeat = sp.tl.survival_summary(found, compare=compare, by_repeat=True, n_boot=10)
    for row in by_repeat.itertuples():
        assert row.c_index == pytest.approx(each[row.representation, row.repeat])


def test_a_shift_of_a_folds_risks_changes_nothing_within_folds():
    found = results()
    shifted = found.assign(risk=found["risk"] + 10 * found["fold"])
    pd.testing.assert_frame_equal(sp.tl.survival_summary(found, n_boot=20), sp.tl.survival_summary(shifted, n_boot=20))
    assert not sp.tl.survival_summary(found, n_boot=20, compare="all").equals(
        sp.tl.survival_summary(shifted, n_boot=20, compare="all")
    )


def test_intervals_of_c_indices_cover():
    truth = sp.tl.survival_summary(results(3000, 1, 99), n_boot=1)["c_index"][0]
    hits = 0
    for seed in range(60):
        row = sp.tl.survival_summary(results(60, 1, seed), n_boot=200, rng=seed).iloc[0]
        hits += row["low"] <= truth <= row["high"]
    assert hits >= 51


@pytest.mark.parametrize(
    ("spoilt", "options", "error", "said"),
    [
        (lambda t: t.drop(columns="risk"), {}, ValueError, "table lacks 'risk'; .* Pass what sp.tl.survival returned"),
        (lambda t: [], {}, TypeError, "table: got list"),
        (lambda t: t[:0], {}, ValueError, "table is empty"),
        (lambda t: pd.concat([t, t[:1].assign(fold=3)]), {}, ValueError, "1 rows repeat a patient"),
        (lambda t: t[1:], {}, ValueError, "differ in their patients"),
        (lambda t: t.assign(risk=t["risk"].where(t.index > 1)), {}, ValueError, "risk is missing in 2 of 160 rows"),
        (lambda t: t.assign(time=t["time"] + t["repeat"]), {}, ValueError, "time or event differ between the rows"),
        (lambda t: t, {"baseline": "x"}, KeyError, "baseline='x' is not in the table; representations: 'good', 'bad'"),
        (lambda t: t, {"level": 95}, ValueError, "level=95: expected a number between 0 and 1"),
        (lambda t: t, {"compare": "none"}, ValueError, "compare='none': expected"),
        (lambda t: t, {"n_boot": 0}, ValueError, "n_boot=0: expected a whole number"),
    ],
)
def test_tables_that_are_none_are_refused(spoilt, options, error, said):
    with pytest.raises(error, match=said):
        sp.tl.survival_summary(spoilt(results()), **options)
