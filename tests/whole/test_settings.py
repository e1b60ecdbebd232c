"""What functions say when they end, and how much of it is shown."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import spade as sp
from spade._said.lines import duration, speaks, told, wrote

SCRIPT = """
import logging
{before}
import spade as sp
sp.settings.verbosity = {verbosity!r}
logging.getLogger("spade").info("a line")
"""


@pytest.fixture
def lines(caplog):
    """Lines of a call, as level and text."""
    caplog.set_level(logging.DEBUG, "spade")

    def of(function, *args, **kwargs):
        caplog.clear()
        function(*args, **kwargs)
        return [(record.levelname, record.getMessage().rsplit(" (", 1)[0]) for record in caplog.records]

    return of


@pytest.fixture
def verbosity():
    """Put the setting back."""
    before = sp.settings.verbosity
    yield
    sp.settings.verbosity = before


def test_a_call_says_in_one_line_what_it_wrote_where(lines):
    samples = sp.datasets.toy(2, 40, 30)
    assert lines(sp.pp.patches, samples) == [
        ("HINT", "toy_0: wrote shapes['patches'], obs['spade_valid']: 40 of 40 patches valid"),
        ("HINT", "toy_1: wrote shapes['patches'], obs['spade_valid']: 40 of 40 patches valid"),
        ("INFO", "pp.patches: wrote shapes['patches'], obs['spade_valid'] in 2 samples"),
    ]
    assert lines(sp.pp.patches, samples[0])[-1] == (
        "INFO",
        "pp.patches: wrote shapes['patches'], obs['spade_valid'] in toy_0: 40 of 40 patches valid",
    )


def test_a_call_says_what_it_returns_and_how_long_it_took(caplog):
    caplog.set_level(logging.INFO, "spade")
    samples = sp.datasets.toy(2, 40, 30)
    for sample in samples:
        sample["table"].obsm["X_a"] = np.random.default_rng(0).normal(size=(40, 4))
    table = sp.tl.mixing(samples, use_rep="X_a")
    text = caplog.records[-1].getMessage()
    assert text.startswith(f"tl.mixing: returns {len(table)} rows (")
    assert text.endswith(" s)")


def test_calls_within_a_call_are_hints_and_add_what_they_wrote(lines):
    @speaks
    def inner():
        wrote("a", "obs['x']")

    @speaks
    def outer():
        inner()
        wrote("b", "obsm['y']")
        told("of 3 spots")
        return [1]

    outer.__module__ = inner.__module__ = "spade.tl"
    found = lines(outer)
    assert [text.split(".", 1)[-1] for level, text in found if level == "INFO"] == [
        "outer: wrote obs['x'], obsm['y'] in 2 samples; [1]; of 3 spots"
    ]
    assert sum("inner: wrote obs['x'] in a" in text for level, text in found if level == "HINT") == 1


def test_a_call_that_finds_everything_done_says_so(lines):
    @speaks
    def idle():
        pass

    assert lines(idle)[-1][1].endswith("idle: nothing to do")


def test_a_plot_leaves_what_it_computes_unsaid(lines):
    draw = {"representation": "X", "shots": 1, "repeat": 0, "label": "", "n_classes": 2, "metric": "balanced_accuracy"}
    recall = {"metric": "recall", "label": "tumour"}
    drawn = [draw | {"unit": unit, "value": value} for unit, value in (("a", 0.6), ("b", 0.7))]
    scores = pd.DataFrame([*drawn, *(one | recall for one in drawn)])
    assert lines(sp.tl.few_shot_summary, scores) == [("INFO", "tl.few_shot_summary: returns 1 row")]
    drawn = lines(sp.pl.few_shot, scores)
    assert ("HINT", "tl.few_shot_summary: returns 1 row") in drawn
    assert not [text for level, text in drawn if level == "INFO"]


def test_a_call_that_fails_says_nothing_and_the_next_one_is_whole(lines):
    samples = sp.datasets.toy(1, 40, 30)

    def fails():
        with pytest.raises(ValueError, match="size_um"):
            sp.pp.patches(samples, size_um=-1)

    assert not [level for level, _ in lines(fails) if level != "DEBUG"]
    assert lines(sp.pp.patches, samples)[-1][0] == "INFO"


@pytest.mark.parametrize(
    ("value", "name"), [(0, "error"), (1, "warning"), ("info", "info"), (np.int64(3), "hint"), (4, "debug")]
)
def test_verbosity_takes_scanpy_s_numbers_and_names(value, name, verbosity):
    sp.settings.verbosity = value
    assert sp.settings.verbosity.name == name
    assert repr(sp.settings) == f"Settings(verbosity={name!r})"


@pytest.mark.parametrize("value", [5, -1, 1.5, True, "loud", None, [1]])
def test_other_values_are_refused_and_change_nothing(value, verbosity):
    sp.settings.verbosity = 1
    with pytest.raises(ValueError, match=r"^verbosity=.*expected one of 'error' \(0\), 'warning' \(1\), 'info' \(2\)"):
        sp.settings.verbosity = value
    assert sp.settings.verbosity == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7_500, "2 h 5 min")],
)
def test_times_are_said_in_words(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("before", "verbosity", "rank", "shown"),
    [
        ("", "info", "0", "a line\n"),
        ("", "warning", "0", ""),
        ("", "info", "1", ""),  # of several processes, the first one speaks
        ("logging.basicConfig(format='mine: %(message)s')", "info", "0", "mine: a line\n"),
    ],
)
def test_scripts_show_the_lines_once(before, verbosity, rank, shown):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before=before, verbosity=verbosity)],
        env=os.environ | {"RANK": rank}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (run.stdout, run.stderr) == ("", shown)
