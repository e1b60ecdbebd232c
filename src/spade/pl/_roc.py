"""How well each class is told from the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spade._checks import plural
from spade._samples.experts import palette
from spade._samples.shown.colours import SAFE
from spade.core.arrays import Floats
from spade.pl._draw.axes import GREY, SMALL, TEXT, clip, finish, lines_legend, panel_grid, title
from spade.pl._draw.predictions import PROBABILITY, Predictions, read_predictions

PANEL = 2.7
#: Most characters of the name of a class.
LENGTH = 30
#: Shares of false alarms at which curves are averaged.
GRID = np.linspace(0, 1, 201)


def roc(
    table: pd.DataFrame,
    *,
    shots: int | None = None,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Draw ROC curves of few-shot or slide tasks: every class against the rest.

    One panel per representation. Probabilities of different heads are not on one scale, so a curve is computed within
    each draw and section, patient or fold, and the curves are averaged; so are the areas in the legend. Draws in which
    all or none of the spots or slides have the class are left out. Of two classes, the second is drawn.

    Parameters
    ----------
    table
        Predictions: the second table of :func:`spade.tl.few_shot` or :func:`spade.tl.slide_task` with
        ``return_predictions=True``.
    shots
        Labels per class that were learned from (0: all). None: most of those in the table.
    ncols
        Panels beside each other; None: all.
    figsize
        Width and height of the figure in inches.
    ax
        As many Axes as there are representations; None: a new figure.
    show
        Call ``plt.show()``.
    return_fig
        Return the figure instead of the Axes.

    Returns
    -------
    Array of Axes, one per representation (and cohort).

    Raises
    ------
    KeyError
        No such number of shots.
    TypeError, ValueError
        Not such a table, one that predicts numbers, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> settings = {"shots": 4, "n_repeats": 3, "groupby": "patient", "return_predictions": True}
    >>> table, predictions = sp.tl.few_shot(samples, label_key="domain", use_rep="X_texture", **settings)
    >>> sp.pl.roc(predictions).shape
    (1,)
    """
    found = read_predictions(table, shots)
    size = PANEL + 0.5, PANEL + 0.9 + 0.14 * len(found[0].classes)
    axes = panel_grid((len(found),), size, plural(len(found), "representation"), ax=ax, ncols=ncols, figsize=figsize)
    for panel, one in zip(axes, found, strict=True):
        _draw(panel, one)
    return finish(axes, show=show, return_fig=return_fig)


def _draw(ax: Axes, found: Predictions) -> None:
    names = found.classes
    colours = SAFE if len(names) <= len(SAFE) else palette(len(names))
    for name, colour in list(zip(names, colours, strict=False))[1 if len(names) == 2 else 0 :]:
        curve, area = _mean_curve(found.table, name)
        if np.isnan(area):
            ax.plot([], [], color=colour, linewidth=1.4, label=f"{clip(name, LENGTH)}: not measured")
        else:
            ax.plot(GRID, curve, color=colour, linewidth=1.4, label=f"{clip(name, LENGTH)}: AUROC {area:.2f}")
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    ax.set_xlabel("false positive rate", fontsize=TEXT)
    ax.set_ylabel("true positive rate", fontsize=TEXT)
    ax.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_anchor("N")
    lines_legend(ax)
    title(ax, found.title)


def _mean_curve(table: pd.DataFrame, name: str) -> tuple[Floats, float]:
    """Return the mean curve of a class over draws and units, on :data:`GRID`, and the mean area; NaN without any."""
    from sklearn.metrics import roc_auc_score, roc_curve

    curves, areas = [], []
    for _, own in table.groupby(["repeat", "unit"], sort=False):
        is_class, score = (own["label"] == name).to_numpy(), own[f"{PROBABILITY}{name}"].to_numpy()
        if is_class.all() or not is_class.any():
            continue
        false, true, _ = roc_curve(is_class, score)
        curves.append(np.interp(GRID, false, true))
        areas.append(float(roc_auc_score(is_class, score)))
    if not areas:
        return np.full(len(GRID), np.nan), float("nan")
    mean = np.mean(curves, axis=0)
    mean[0] = 0.0
    return mean, float(np.mean(areas))
