"""Which classes are taken for which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spade._checks import plural
from spade.core.checks import check_flag
from spade.pl._draw.axes import SMALL, TEXT, clip, colour_bar, finish, panel_grid, title
from spade.pl._draw.predictions import Predictions, read_predictions

#: Inches of a cell, and of what stands around the cells, without and per character of the longest class.
CELL, LABELS, CHARACTER = 0.42, 0.6, 0.062
#: Most classes whose cells have their numbers written into them, and most characters of the name of a class.
MOST_WRITTEN, LENGTH = 12, 30


def confusion(
    table: pd.DataFrame,
    *,
    shots: int | None = None,
    normalize: bool = True,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Draw the confusion matrix of few-shot or slide tasks.

    One panel per representation. A row is what is true, a column what is predicted; all draws, folds and sections are
    counted together.

    Parameters
    ----------
    table
        Predictions: the second table of :func:`spade.tl.few_shot` or :func:`spade.tl.slide_task` with
        ``return_predictions=True``.
    shots
        Labels per class that were learned from (0: all). None: most of those in the table.
    normalize
        Whether to draw the share of each true class (a row sums to 1), or counts.
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
    Array of Axes, one per representation (and cohort). The number beside a class counts its predictions.

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
    >>> sp.pl.confusion(predictions).shape
    (1,)
    """
    check_flag("normalize", normalize)
    found = read_predictions(table, shots)
    side = CELL * max(len(found[0].classes), 3)
    beside = CHARACTER * min(max(map(len, found[0].classes)), LENGTH)
    size = side + beside + LABELS + 1.1, side + 0.8 * beside + LABELS
    axes = panel_grid((len(found),), size, plural(len(found), "representation"), ax=ax, ncols=ncols, figsize=figsize)
    for panel, one in zip(axes, found, strict=True):
        _draw(panel, one, normalize=normalize)
    return finish(axes, show=show, return_fig=return_fig)


def _draw(ax: Axes, found: Predictions, *, normalize: bool) -> None:
    names, n = found.classes, len(found.classes)
    true, predicted = (pd.Categorical(found.table[key], categories=names).codes for key in ("label", "predicted"))
    counts = np.bincount(true * n + predicted.astype(np.int64), minlength=n * n).reshape(n, n)
    totals = counts.sum(1)
    values = counts / np.maximum(totals, 1)[:, None] if normalize else counts
    picture = ax.imshow(values, cmap="Blues", vmin=0, vmax=1 if normalize else None)
    if n <= MOST_WRITTEN:
        for i, j in np.ndindex(n, n):
            colour = "white" if values[i, j] > 0.6 * values.max() else "black"
            text = f"{values[i, j]:.2f}" if normalize else f"{counts[i, j]:,}"
            ax.text(j, i, text, ha="center", va="center", fontsize=SMALL, color=colour)
    short = [clip(name, LENGTH) for name in names]
    ax.set_xticks(range(n), short, rotation=40, ha="right", rotation_mode="anchor", fontsize=SMALL)
    ax.set_yticks(range(n), [f"{name} ({m:,})" for name, m in zip(short, totals, strict=True)], fontsize=SMALL)
    ax.tick_params(length=0)
    ax.set_xlabel("predicted", fontsize=TEXT)
    ax.set_ylabel("true", fontsize=TEXT)
    title(ax, found.title)
    colour_bar(ax, picture, "share of the true class" if normalize else "predictions")
