"""Summaries of few-shot results: honest intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.sections import through_csv

import spade as sp


def results(values, metric="balanced_accuracy"):
    """One row per representation, unit and repeat."""
    return pd.DataFrame(
        [
            {
                "representation": name,
                "shots": 1,
                "repeat": repeat,
                "unit": f"u{unit}",
                "metric": metric,
                "label": "",
                "value": value,
            }
            for name, units in values.items()
            for unit, repeats in enumerate(units)
            for repeat, value in enumerate(repeats)
        ]
    )


def test_intervals_are_over_units_not_draws():
    rng = np.random.default_rng(0)
    units = rng.normal(0.6, 0.1, 20)
    few = results({"x": [[u] for u in units]})
    many = results({"x": [[u + 0.01, u - 0.01] * 50 for u in units]})  # more draws of the same sections know no more
    one, other = (sp.tl.few_shot_summary(table).iloc[0] for table in (few, many))
    np.testing.assert_allclose(one[["mean", "low", "high"]].astype(float), other[["mean", "low", "high"]].astype(float))
    assert one["high"] - one["low"] == pytest.approx(2 * 1.96 * units.std() / np.sqrt(20), rel=0.15)
    assert np.isnan(sp.tl.few_shot_summary(results({"x": [[0.5, 0.6]]})).iloc[0]["low"])


def test_paired_differences_are_sharper_than_the_intervals_of_each():
    rng = np.random.default_rng(0)
    units = rng.normal(0.6, 0.15, 8)
    table = results(
        {
            "frozen": [[u] for u in units],
            "tuned": [[u + 0.05 + e] for u, e in zip(units, rng.normal(0, 0.01, 8), strict=True)],
        }
    )
    found = sp.tl.few_shot_summary(table, baseline="frozen").set_index("representation").loc["tuned"]
    assert 0.03 < found["difference_low"] < found["difference"] < found["difference_high"] < 0.07
    assert found["low"] < sp.tl.few_shot_summary(table).iloc[0]["mean"] < found["high"]
    assert found["p"] == found["p_corrected"] == 2 / 2**8


def test_bootstrap_intervals_cover():
    rng = np.random.default_rng(1)
    hits = 0
    for i in range(200):
        table = results({"x": [[u] for u in rng.normal(0, 1, 25)]})
        row = sp.tl.few_shot_summary(table, n_boot=400, rng=i).iloc[0]
        hits += row["low"] <= 0 <= row["high"]
    assert 0.88 < hits / 200 < 0.98


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"metric": "accuracy"}, KeyError, "metric='accuracy' is not in the table; metrics: 'balanced_accuracy'"),
        ({"baseline": "y"}, KeyError, "baseline='y' is not in the table; representations: 'x'"),
        ({"level": 95}, ValueError, "level=95: expected a number between 0 and 1"),
    ],
)
def test_summaries_of_what_is_not_there(options, error, said):
    with pytest.raises(error, match=said):
        sp.tl.few_shot_summary(results({"x": [[0.5]]}), **options)


def test_summaries_of_other_tables():
    with pytest.raises(ValueError, match="table lacks 'representation'"):
        sp.tl.few_shot_summary(pd.DataFrame({"value": [1]}))
    with pytest.raises(TypeError, match=r"table: got list; expected what sp\.tl\.few_shot returned"):
        sp.tl.few_shot_summary([])


def test_results_from_a_file_have_the_same_summary():
    table = results({"x": [[0.5], [0.6]], "y": [[0.7], [0.9]]})
    summaries = [sp.tl.few_shot_summary(one, baseline="x") for one in (table, through_csv(table))]
    assert len(summaries[0]) == 2
    pd.testing.assert_frame_equal(*summaries)
