"""Training curves are the history."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.plots import labels_of

import spade as sp
from spade._samples.experts import palette


def test_training_lines_are_the_history(model):
    ax = sp.pl.training(model)
    lines = {line.get_label(): line for line in ax.lines}
    for expert, own in model.history.groupby("expert"):
        line = lines[f"expert {expert}, train"]
        np.testing.assert_array_equal(line.get_xydata(), own[["epoch", "train_loss"]])
        assert line.get_color() == palette(3)[int(expert)]
    assert len(lines) == model.history["expert"].nunique()
    sizes = model.history.drop_duplicates("expert")
    assert labels_of(ax) == [f"{e} ({n})" for e, n in zip(sizes["expert"], sizes["n_spots"], strict=True)]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "training loss")


def test_validation_is_dashed_and_its_best_epoch_marked():
    history = pd.DataFrame(
        {
            "expert": ["0"] * 4 + ["2"] * 4,
            "epoch": [0, 1, 2, 3] * 2,
            "train_loss": [4.0, 3, 2, 1] * 2,
            "val_loss": [5.0, 4, 4.5, 6] + [np.nan] * 4,
        }
    )
    ax = sp.pl.training(history)
    lines = {line.get_label(): line for line in ax.lines}
    assert sorted(lines) == ["expert 0, best epoch", "expert 0, train", "expert 0, val", "expert 2, train"]
    assert lines["expert 0, best epoch"].get_xydata().tolist() == [[1, 4]]
    assert lines["expert 0, val"].is_dashed()
    assert not lines["expert 0, train"].is_dashed()
    assert lines["expert 2, train"].get_color() == palette(3)[2]
    assert labels_of(ax) == ["0", "2", "train", "validation", "best epoch"]


def test_training_errors(model):
    with pytest.raises(TypeError, match="got str; expected a trained model or its history"):
        sp.pl.training("model")
    with pytest.raises(ValueError, match=r"history is empty.*sp\.tl\.train_spade"):
        sp.pl.training(pd.DataFrame())
    with pytest.raises(ValueError, match=r"lacks 'val_loss'; columns: 'expert'"):
        sp.pl.training(model.history.drop(columns="val_loss"))
