"""What each variant of a switchboard gains over frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from spade._checks import shorten
from spade.pl._draw.axes import GREY, SMALL, TEXT, finish, given_axes, new_figure, title
from spade.pl._draw.colours import SAFE
from spade.tl._switchboard.switchboard_summary import PROBE, switchboard_summary

ROW, WIDTH, NAMES, COLUMNS = 0.24, 2.3, 1.6, 3
COLOURS = {PROBE: SAFE[0], "model": SAFE[5]}
#: Metrics that are drawn only if they are asked for.
METRICS_ON_REQUEST = ("median_rank", "macro_auroc")
LABELS = {
    "pearson": "Pearson correlation",
    "median_rank": "median rank",
    "balanced_accuracy": "balanced accuracy",
    "macro_auroc": "macro AUROC",
}


def switchboard(
    table: pd.DataFrame,
    *,
    metrics: Sequence[str] | None = None,
    baseline: str = "frozen",
    over: str = "group",
    n_boot: int = 2_000,
    rng: int | np.random.Generator = 0,
    ax: Axes | NDArray[Any] | None = None,
    show: bool = False,
) -> NDArray[Any]:
    """Draw every figure of a switchboard in a panel of its own: a dot per variant, with its 95 % bootstrap interval over units.

    Blue: by the probe that is the same for all variants. Orange: by the model's own head or joint space, where it has one. The line is the
    probe of the baseline; dots are chance.

    Parameters
    ----------
    table
        From :func:`spade.tl.switchboard`.
    metrics
        Metrics to draw; None: all but median rank and AUROC.
    baseline
        Variant that the line stands at.
    over
        Unit of the intervals, as in :func:`spade.tl.switchboard_summary`.
    n_boot, rng
        Of the bootstrap.
    ax
        As many Axes as there are panels; None: a new figure.
    show
        Call ``plt.show()``.

    Returns
    -------
    Array of Axes, ``(n_panels,)``.

    Raises
    ------
    KeyError
        No such metric or variant.
    TypeError, ValueError
        A table of something else, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> genes = sp.pp.select_genes(samples, n_top_genes=50)
    >>> fast = {"n_epochs": 2, "dim": 16}
    >>> table = sp.tl.switchboard(samples, use_rep="X_texture", genes=genes, variants=["seal"], control=False, seal_settings=fast)
    >>> sp.pl.switchboard(table).shape
    (3,)
    """
    summary = switchboard_summary(table, baseline=baseline, over=over, n_boot=n_boot, rng=rng)
    there = list(dict.fromkeys(summary["metric"]))
    wanted = [name for name in there if name not in METRICS_ON_REQUEST] if metrics is None else list(metrics)
    if odd := [name for name in wanted if name not in there]:
        raise KeyError(f"metrics: {shorten(odd)} are not in the table; metrics: {shorten(there)}.")
    summary = summary[summary["metric"].isin(wanted)]
    panels = list(summary.groupby(["metric", "direction", "shots"], sort=False))
    variants = list(dict.fromkeys(table["variant"]))
    axes = _axes(ax, [_heading(*key) for key, _ in panels], len(variants))
    for i, (one, (key, own)) in enumerate(zip(axes, panels, strict=True)):
        _draw(one, own, variants, baseline, _heading(*key))
        one.set_yticks(range(len(variants)), variants if ax is not None or i % COLUMNS == 0 else [], fontsize=SMALL)
        one.set_xlabel(LABELS.get(key[0], key[0]), fontsize=TEXT)
    _legend(axes[0], summary, baseline, below=ax is None)
    finish(show)
    return axes


def _heading(metric: str, direction: str, shots: int) -> str:
    return direction or (
        f"{shots} labelled spots per class" if shots > 1 else "one labelled spot per class" if shots else "expression"
    )


def _axes(ax: Any, names: list[str], n_variants: int) -> NDArray[Any]:
    if ax is not None:
        return given_axes(ax, (len(names),), ", ".join(names))
    n_rows, n_columns = -(-len(names) // COLUMNS), min(COLUMNS, len(names))
    figure = new_figure(NAMES + WIDTH * n_columns, (ROW * max(n_variants, 3) + 0.8) * n_rows + 0.3)
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for spare in axes[len(names) :]:
        spare.remove()
    return axes[: len(names)]


def _draw(ax: Axes, rows: pd.DataFrame, variants: list[str], baseline: str, heading: str) -> None:
    for by, colour in COLOURS.items():
        own = rows[rows["by"] == by].set_index("variant").reindex(variants)
        y = np.arange(len(variants)) + (-0.14 if by == PROBE else 0.14)
        ax.hlines(y, own["low"], own["high"], color=colour, linewidth=1.2)
        ax.plot(own["mean"], y, "o", color=colour, markersize=3.5)
    probe = rows[rows["by"] == PROBE].set_index("variant")
    ax.axvline(probe.loc[baseline, "mean"], color=SAFE[0], linewidth=0.8)
    ax.axvline(probe.loc[baseline, "chance"], color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
    ax.set_ylim(len(variants) - 0.5, -0.5)
    ax.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    ax.spines[["top", "right"]].set_visible(False)
    title(ax, heading)


def _legend(ax: Axes, summary: pd.DataFrame, baseline: str, below: bool) -> None:
    """Say once what colours and lines are: below a figure of our own, else in the first panel."""
    names = {PROBE: "probe, alike for all", "model": "the model's own head or space"}
    handles = [
        Line2D([], [], color=COLOURS[by], marker="o", markersize=3.5, linewidth=1.2, label=names[by])
        for by in COLOURS
        if (summary["by"] == by).any()
    ]
    handles.append(Line2D([], [], color=SAFE[0], linewidth=0.8, label=f"probe of {baseline}"))
    handles.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), label="chance"))
    style: dict[str, Any] = {"handles": handles, "fontsize": SMALL, "frameon": False}
    if below:
        ax.figure.legend(loc="outside lower left", ncols=len(handles), **style)
    else:
        ax.legend(loc="best", **style)
