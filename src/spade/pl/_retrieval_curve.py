"""Recall@k of image and expression that search each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from spade._checks import check_table, plural, shorten
from spade._samples.shown.colours import SAFE
from spade.core.checks import check_names_given
from spade.pl._draw.axes import GREY, SMALL, TEXT, finish, lines_legend, panel_grid, title
from spade.pl._draw.words import words

PANEL = 3.0
COLUMNS = ("direction", "gallery", "n", "k", "recall", "chance_recall")
#: What is drawn of a gallery, and how.
LINES: dict[str, tuple[str, Any]] = {
    "recall": ("model", "-"),
    "chance_recall": ("chance", "--"),
    "control_recall": ("control", ":"),
}


def retrieval_curve(
    table: pd.DataFrame,
    *,
    galleries: str | list[str] | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Draw recall@k: the share of spots whose partner is among the first k, beside chance and the control.

    One panel per direction, with a colour for each gallery of competing spots. Chance (dashed) is that of the gallery's
    size; the control (dotted), if it was measured, is a model that was trained on shuffled pairs.

    Parameters
    ----------
    table
        From :func:`spade.tl.retrieval_metrics` with several ``k``.
    galleries
        Galleries to draw, such as ``"same_section"``. None: all in the table.
    figsize
        Width and height of the figure in inches.
    ax
        As many Axes as there are directions; None: a new figure.
    show
        Call ``plt.show()``.
    return_fig
        Return the figure instead of the Axes.

    Returns
    -------
    Array of Axes, one per direction.

    Raises
    ------
    KeyError
        No such gallery.
    TypeError, ValueError
        Not such a table, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> panel = sp.pp.select_genes(samples)
    >>> sizes = {"n_prototypes": 2, "n_experts": 2, "n_epochs": 2}
    >>> model = sp.tl.train_spade(samples, use_rep="X_texture", genes=panel, **sizes)
    >>> sp.pl.retrieval_curve(sp.tl.retrieval_metrics(samples, model, k=(1, 5, 20))).shape
    (2,)
    """
    table = check_table(table, COLUMNS, "sp.tl.retrieval_metrics")
    there = list(dict.fromkeys(table["gallery"]))
    names = there if galleries is None else check_names_given("galleries", galleries)
    if unknown := [name for name in names if name not in there]:
        raise KeyError(f"galleries: {shorten(unknown)} is not in the table; galleries: {shorten(there)}.")
    directions = list(dict.fromkeys(table["direction"]))
    axes = panel_grid(
        (len(directions),), (PANEL + 0.4, PANEL + 0.9), plural(len(directions), "direction"), ax=ax, figsize=figsize
    )
    colours = dict(zip(there, SAFE, strict=False))
    for panel, direction in zip(axes, directions, strict=True):
        own = table[(table["direction"] == direction) & table["gallery"].isin(names)]
        _draw(panel, own, {name: colours[name] for name in names})
        title(panel, f"{words(direction)} ({int(own['n'].max()):,} queries)")
    return finish(axes, show=show, return_fig=return_fig)


def _draw(ax: Axes, table: pd.DataFrame, colours: dict[str, str]) -> None:
    lines = {key: style for key, style in LINES.items() if key in table}
    for name, colour in colours.items():
        own = table[table["gallery"] == name].sort_values("k")
        for key, (label, style) in lines.items():
            marker = "o" if key == "recall" else ""
            ax.plot(
                own["k"], own[key], linestyle=style, marker=marker, color=colour, linewidth=1.2, markersize=3.5,
                gid=f"{name}: {label}",
            )  # fmt: skip
    ks = np.unique(table["k"])
    ax.set_xscale("log")
    ax.set_xticks(ks, [f"{k:,}" for k in ks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_ylim(0, 1.02 * max(table[key].max() for key in lines))
    ax.set_xlabel("k", fontsize=TEXT)
    ax.set_ylabel("recall@k", fontsize=TEXT)
    ax.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    ax.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], color=colour, linewidth=1.2, label=words(name)) for name, colour in colours.items()]
    handles += [
        Line2D([], [], color=GREY, linewidth=1.2, linestyle=style, label=label) for label, style in lines.values()
    ]
    lines_legend(ax, handles, ncols=2)
