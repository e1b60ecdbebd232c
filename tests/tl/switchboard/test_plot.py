"""The plot of the switchboard."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.switchboard import NAMES

import spade as sp
from spade.pl._draw.words import words


def test_plot_has_a_panel_per_figure_and_a_dot_per_variant(table):
    axes = sp.pl.switchboard(table)
    assert [ax.get_title(loc="left") for ax in axes] == [
        "expression", "image → expression", "expression → image", "one labelled spot per class",
        "4 labelled spots per class",
    ]  # fmt: skip
    assert [t.get_text() for t in axes[0].get_yticklabels()] == list(map(words, ("frozen", *NAMES, "seal_shuffled")))
    summary = sp.tl.switchboard_summary(table)
    pearson = summary[summary["metric"] == "pearson"]
    for line, by in zip(axes[0].get_lines(), ("probe", "model"), strict=False):
        drawn = line.get_xdata()[~np.isnan(line.get_xdata())]
        assert drawn.tolist() == pearson[pearson["by"] == by]["mean"].tolist()
    frozen = pearson[pearson["variant"] == "frozen"]["mean"].item()
    assert axes[0].get_lines()[2].get_xdata() == [frozen, frozen]


def test_plot_of_some_metrics_in_axes_of_ones_own(table):
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, 2)
    found = sp.pl.switchboard(table, metrics=["median_rank"], ax=axes)
    assert found.tolist() == axes.tolist()
    with pytest.raises(KeyError, match=r"metrics: 'recall@10' is not in the table; metrics: 'pearson', 'recall@5'"):
        sp.pl.switchboard(table, metrics=["recall@10"])
    with pytest.raises(ValueError, match="got 2 Axes for 5 panels"):
        sp.pl.switchboard(table, ax=axes)
    with pytest.raises(ValueError, match="table lacks"):
        sp.pl.switchboard(pd.DataFrame({"a": [1]}))
    plt.close("all")
