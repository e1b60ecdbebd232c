"""Kaplan–Meier plots show what the arrays say."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers.survival import PLACEBO, SEEN, TREATED, results

import spade as sp

FREIREICH = {"time": TREATED + PLACEBO, "event": SEEN + [1] * 21}
ARMS = ["6-MP"] * 21 + ["placebo"] * 21


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_curves_censoring_numbers_and_p():
    axes = sp.pl.survival(FREIREICH, groups=ARMS, time_label="weeks")
    assert axes.shape == (2, 1)
    above, below = axes[:, 0]
    assert above.get_title(loc="left") == "log-rank p < 0.0001"
    assert above.get_xlabel() == "weeks"
    treated, _, placebo, _ = above.lines  # a curve and its ticks per group
    assert treated.get_label() == "6-MP (9 of 21)"
    assert placebo.get_label() == "placebo (21 of 21)"
    assert treated.get_xydata()[0].tolist() == [0, 1]
    assert placebo.get_ydata()[-1] == 0
    censored = above.lines[1].get_xdata()
    assert censored.tolist() == sorted({t for t, e in zip(TREATED, SEEN, strict=True) if not e})
    assert above.lines[3].get_xdata().size == 0
    assert len(above.collections) == 2
    ticks = below.get_xticks().tolist()
    at_risk = [sum(t >= tick for t in TREATED) for tick in ticks]
    assert texts(below)[: len(ticks)] == list(map(str, at_risk))
    assert texts(below)[len(ticks)] == "21"
    assert [label.get_text() for label in below.get_yticklabels()] == ["6-MP", "placebo"]
    assert below.get_xlim() == above.get_xlim()


def test_risk_groups_are_halves_of_the_patients():
    table = results()
    axes = sp.pl.survival(table)
    assert axes.shape == (2, 2)
    assert [ax.get_title(loc="left").split(",")[0] for ax in axes[0]] == ["good", "bad"]
    assert [label.get_text() for label in axes[1, 0].get_yticklabels()] == ["low risk", "high risk"]
    numbers = texts(axes[1, 0])
    n_ticks = len(axes[1, 0].get_xticks())
    halves = int(numbers[0]), int(numbers[n_ticks])
    assert sum(halves) == 40
    assert abs(halves[0] - 20) <= 2  # places that are means of two repeats may be the same
    low, high = axes[0, 0].lines[0], axes[0, 0].lines[2]
    medians = [line.get_xdata()[line.get_ydata() <= 0.5][0] for line in (low, high)]
    assert medians[0] > medians[1]
    # a shift of a fold's risks, as of another model, does not move patients
    shifted = sp.pl.survival(table.assign(risk=table["risk"] + 10 * table["fold"]))
    np.testing.assert_array_equal(shifted[0, 0].lines[0].get_xydata(), low.get_xydata())
    three = sp.pl.survival(table, representation="bad", n_groups=3)
    assert three.shape == (2, 1)
    assert len(three[1, 0].get_yticklabels()) == 3
    assert three[0, 0].get_title(loc="left").startswith("bad, ")


def test_groups_of_a_survival_table_count_patients_once():
    table = results().assign(arm=lambda t: np.where(t["patient"].str[-1].astype(int) < 5, "x", "y"))
    axes = sp.pl.survival(table, groups="arm")
    assert axes.shape == (2, 1)
    assert texts(axes[1, 0])[0] == "20"
    with pytest.raises(ValueError, match="differ between the rows of a patient"):
        sp.pl.survival(table.assign(arm=table["representation"]), groups="arm")


def test_given_axes_are_used_and_one_group_or_no_event_is_fine():
    _, own = plt.subplots(2, 1)
    axes = sp.pl.survival({"time": [1, 2, 3], "event": [0, 0, 0]}, groups=["a", "a", "b"], ax=own)
    assert axes[0, 0] is own[0]
    assert own[0].get_title(loc="left") == "log-rank: no events to compare"
    assert sp.pl.survival({"time": [1, 2], "event": [1, 0]}, groups=["a", "a"])[0, 0].get_title(loc="left") == ""
    axes[0, 0].figure.canvas.draw()


def test_the_level_widens_the_band():
    def height(level):
        band = sp.pl.survival(FREIREICH, groups=ARMS, level=level)[0, 0].collections[0]
        points = band.get_paths()[0].vertices
        return np.ptp(points[(points[:, 0] > 9) & (points[:, 0] < 11), 1])

    assert height(0.99) > height(0.5)


@pytest.mark.parametrize(
    ("table", "options", "error", "said"),
    [
        ([1, 2], {}, TypeError, "table: got list; expected a DataFrame, or a dict with time and event"),
        ({"time": [1]}, {}, ValueError, "table lacks 'event'; columns: 'time'"),
        (FREIREICH, {}, ValueError, "table lacks 'representation'"),
        (FREIREICH, {"groups": "arm"}, KeyError, "groups='arm' is not in the table"),
        (FREIREICH, {"groups": ["a"]}, ValueError, "groups: got 1 label for 42 rows"),
        (FREIREICH, {"groups": [None, *ARMS[1:]]}, ValueError, "groups: 1 of 42 rows have none"),
        (FREIREICH, {"groups": ARMS, "level": 2}, ValueError, "level=2: expected"),
        (
            {"time": [-1, 2], "event": [1, 1]},
            {"groups": ["a", "b"]},
            ValueError,
            "time: 1 of 2 are negative or missing",
        ),
        (
            results(),
            {"representation": "x"},
            KeyError,
            "representation='x' is not in the table; representations: 'good', 'bad'",
        ),
        (results(), {"n_groups": 1}, ValueError, "n_groups=1: expected a whole number of at least 2"),
        (results().assign(risk=1.0), {}, ValueError, "all risks of 'good' are equal"),
    ],
)
def test_what_cannot_be_drawn_is_refused(table, options, error, said):
    with pytest.raises(error, match=said):
        sp.pl.survival(table, **options)


def test_a_wrong_number_of_axes_is_refused():
    _, one = plt.subplots()
    with pytest.raises(ValueError, match="ax: got 1 Axes for 2 panels: curves, numbers at risk"):
        sp.pl.survival(pd.DataFrame(FREIREICH), groups=ARMS, ax=one)
