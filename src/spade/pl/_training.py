"""The loss of every expert over the epochs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from spade._checks import shorten
from spade._samples.experts import palette
from spade.models import SealModel, SpadeModel
from spade.pl._draw.axes import GREY, LEGEND_ROWS, TEXT, finish, given_axes, new_figure

COLUMNS = ("epoch", "train_loss", "val_loss")
#: Columns that name a curve: the expert of a mixture, or the term of the loss of a tuned encoder.
CURVES = {"expert": "expert", "term": "loss"}


def training(
    model_or_history: SpadeModel | SealModel | pd.DataFrame,
    *,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw the loss of each expert over the epochs.

    Parameters
    ----------
    model_or_history
        A trained model, or its ``history``: columns ``expert``, ``epoch``, ``train_loss`` and ``val_loss`` (NaN without
        validation).
    figsize
        Width and height of the figure in inches.
    ax
        Axes to draw into; None: a new figure.
    show
        Call ``plt.show()``.
    return_fig
        Return the figure instead of the Axes.

    Returns
    -------
    The Axes: training loss solid, validation loss dashed, and a dot at the epoch of each expert with the least
    validation loss, which is the one kept. For a :class:`spade.models.SealModel`: the losses of its last stage, with
    dots at the epoch where their sum is least.

    Raises
    ------
    TypeError
        Neither a model nor a DataFrame.
    ValueError
        A history that is empty or lacks columns, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> panel = sp.pp.select_genes(samples)
    >>> model = sp.tl.train_spade(samples, use_rep="X_texture", genes=panel, n_prototypes=2, n_experts=2, n_epochs=3)
    >>> sp.pl.training(model).get_xlabel()
    'epoch'
    """
    history = _history(model_or_history)
    if ax is None:
        panel = new_figure(5.2, 3.0, figsize).subplots()
    else:
        panel = given_axes(ax, (1,), "the losses", figsize=figsize)[0]
    column = next(name for name in CURVES if name in history)
    best = None
    if "stage" in history:  # all losses belong to one model: the one kept is of the epoch with the least total loss
        history = history[history["stage"] == history["stage"].iloc[-1]]
        total = history[history[column] == "loss"]
        best = None if total["val_loss"].isna().all() else total["epoch"][total["val_loss"].idxmin()]
    names = list(dict.fromkeys(history[column].astype(str)))
    numbered = all(name.isdecimal() for name in names)
    colours = palette(max(map(int, names)) + 1 if numbered else len(names))
    handles = []
    for position, name in enumerate(names):
        curve = history[history[column].astype(str) == name].sort_values("epoch")
        colour = colours[int(name) if numbered else position]
        _draw(panel, curve, f"{CURVES[column]} {name}", colour, best)
        size = f" ({int(curve['n_spots'].iloc[0]):,})" if "n_spots" in curve else ""
        handles.append(Line2D([], [], color=colour, linewidth=2, label=f"{name}{size}"))
    heading = f"{CURVES[column]}\n(training spots)" if "n_spots" in history else CURVES[column]
    _dress(panel, handles, heading, validated=bool(np.isfinite(history["val_loss"].astype(float)).any()))
    return finish(panel, show=show, return_fig=return_fig)


def _draw(ax: Axes, curve: pd.DataFrame, label: str, colour: str, best: int | None) -> None:
    """Draw the losses of one curve; ``best`` is the epoch that is kept, None for its own best."""
    epochs, train, val = (curve[value].to_numpy(dtype=float) for value in COLUMNS)
    marker = "o" if len(curve) == 1 else "none"
    ax.plot(epochs, train, color=colour, linewidth=1.2, label=f"{label}, train", marker=marker)
    if np.isfinite(val).any():
        at = int(np.nanargmin(val)) if best is None else int(np.flatnonzero(epochs == best)[0])
        ax.plot(epochs, val, color=colour, linewidth=1.2, linestyle=(0, (4, 2)), label=f"{label}, val")
        ax.plot(
            epochs[at], val[at], "o", markersize=5, markerfacecolor=colour, markeredgecolor="white",
            markeredgewidth=0.8, zorder=3, label=f"{label}, best epoch",
        )  # fmt: skip


def _history(model_or_history: object) -> pd.DataFrame:
    """Return the history of a model, or a history as it is, checked."""
    history = getattr(model_or_history, "history", model_or_history)
    if not isinstance(history, pd.DataFrame):
        raise TypeError(
            f"model_or_history: got {type(model_or_history).__name__}; expected a trained model or its history, a "
            "DataFrame."
        )
    if history.empty:
        raise ValueError(
            "model_or_history: the history is empty, as in a model whose weights were published without one. A model "
            "that sp.tl.train_spade returns has one."
        )
    missing = [column for column in COLUMNS if column not in history]
    if not any(column in history for column in CURVES):
        missing = ["expert", *missing]
    if missing:
        raise ValueError(
            f"model_or_history: the history lacks {shorten(missing)}; columns: {shorten(history.columns, 20)}. Pass "
            "model.history as it is."
        )
    return history


def _dress(ax: Axes, handles: list[Line2D], heading: str, *, validated: bool) -> None:
    if validated:
        handles = [
            *handles,
            Line2D([], [], color=GREY, linewidth=1.2, label="train"),
            Line2D([], [], color=GREY, linewidth=1.2, linestyle=(0, (4, 2)), label="validation"),
            Line2D([], [], color=GREY, marker="o", markersize=5, linestyle="none", label="best epoch"),
        ]
    ax.legend(
        handles=handles,
        title=heading,
        alignment="left",
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        ncols=-(-len(handles) // (LEGEND_ROWS - 2)),
        fontsize=TEXT,
        title_fontsize=TEXT,
        frameon=False,
    )
    ax.set_xlabel("epoch", fontsize=TEXT)
    ax.set_ylabel("loss" if validated else "training loss", fontsize=TEXT)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(labelsize=TEXT)
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.02)
