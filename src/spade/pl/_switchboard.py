"""The variants of a switchboard compared with frozen features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from spade._checks import shorten
from spade._said.lines import hushed
from spade._samples.shown.colours import SAFE
from spade.core.checks import check_count, check_text
from spade.pl._draw.axes import GREY, SMALL, TEXT, finish, given_axes, new_figure, title
from spade.pl._draw.words import words
from spade.tl._switchboard.switchboard_summary import PROBE, switchboard_summary
from spade.tl._switchboard.variants import VARIANTS

#: Inches per variant and of a panel and of the names of variants, and the number of panels in a row.
ROW, WIDTH, NAMES, COLUMNS = 0.24, 2.3, 1.6, 3
COLOURS = {PROBE: SAFE[0], "model": SAFE[5]}
#: Metrics that are drawn only on request.
METRICS_ON_REQUEST = ("median_rank", "macro_auroc")


@hushed
def switchboard(
    table: pd.DataFrame,
    *,
    metrics: Sequence[str] | None = None,
    baseline: str = "frozen",
    over: str = "group",
    n_boot: int = 2_000,
    rng: int | np.random.Generator = 0,
    figsize: tuple[float, float] | None = None,
    ax: Axes | NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Draw one panel per metric of a switchboard: a dot per variant, with its 95 % bootstrap interval over units.

    Blue: measured by the probe, which is the same for all variants. Orange: by the model's own head or joint space, if
    it has one. The solid line is the probe of the baseline, the dotted line is chance.

    Parameters
    ----------
    table
        From :func:`spade.tl.switchboard`.
    metrics
        Metrics to draw; None: all but ``"median_rank"`` and ``"macro_auroc"``.
    baseline
        Variant whose probe the solid line shows.
    over
        Unit of the intervals, as in :func:`spade.tl.switchboard_summary`.
    n_boot
        Bootstrap samples of the units.
    rng
        Seed of the bootstrap.
    figsize
        Width and height of the figure in inches.
    ax
        As many Axes as there are panels; None: a new figure.
    show
        Call ``plt.show()``.
    return_fig
        Return the figure instead of the Axes.

    Returns
    -------
    Array of Axes, ``(n_panels,)``.

    Raises
    ------
    KeyError
        No such metric or variant.
    TypeError, ValueError
        Not such a table, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> genes = sp.pp.select_genes(samples, n_top_genes=50)
    >>> settings = {"variants": ["seal"], "control": False, "seal_settings": {"n_epochs": 2, "dim": 16}}
    >>> table = sp.tl.switchboard(samples, use_rep="X_texture", genes=genes, **settings)
    >>> sp.pl.switchboard(table).shape
    (3,)
    """
    check_text("baseline", baseline)
    check_count("n_boot", n_boot)
    summary = switchboard_summary(table, baseline=baseline, over=over, n_boot=n_boot, rng=rng)
    summary = summary[summary["metric"].isin(_metrics(summary, metrics))]
    panels = list(summary.groupby(["metric", "direction", "shots"], sort=False))
    variants = list(dict.fromkeys(table["variant"]))
    axes = _axes(ax, [_heading(*key[1:]) for key, _ in panels], len(variants), figsize)
    for i, (panel, (key, rows)) in enumerate(zip(axes, panels, strict=True)):
        _draw(panel, rows, variants, baseline, _heading(*key[1:]))
        names = list(map(_variant, variants)) if ax is not None or i % COLUMNS == 0 else []
        panel.set_yticks(range(len(variants)), names, fontsize=SMALL)
        panel.set_xlabel(words(key[0]), fontsize=TEXT)
    _legend(axes[0], summary, _variant(baseline), below=ax is None)
    return finish(axes, show=show, return_fig=return_fig)


def _metrics(summary: pd.DataFrame, metrics: object) -> list[str]:
    """Return the metrics to draw."""
    present = list(dict.fromkeys(summary["metric"]))
    if metrics is None:
        return [name for name in present if name not in METRICS_ON_REQUEST]
    wanted: list[Any] = [metrics] if isinstance(metrics, str) or not isinstance(metrics, Iterable) else list(metrics)
    if not wanted or (unknown := [name for name in wanted if name not in present]):
        odd = shorten(unknown) if wanted else "an empty list"
        raise KeyError(f"metrics: {odd} is not in the table; metrics: {shorten(present, 20)}.")
    return wanted


def _variant(name: str) -> str:
    """Return the name of a variant as prose; names that users gave stay as they are."""
    return words(name) if name in VARIANTS else name


def _heading(direction: str, shots: int) -> str:
    """Return the title of a panel."""
    if direction:
        return words(direction)
    if not shots:
        return "expression"
    return "one labelled spot per class" if shots == 1 else f"{shots} labelled spots per class"


def _axes(ax: Any, names: list[str], n_variants: int, figsize: object) -> NDArray[Any]:
    if ax is not None:
        return given_axes(ax, (len(names),), ", ".join(names), figsize=figsize)
    n_rows, n_columns = -(-len(names) // COLUMNS), min(COLUMNS, len(names))
    figure = new_figure(NAMES + WIDTH * n_columns, (ROW * max(n_variants, 3) + 0.8) * n_rows + 0.3, figsize)
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


def _legend(ax: Axes, summary: pd.DataFrame, baseline: str, *, below: bool) -> None:
    """Explain colours and lines once: below a new figure, or in the first of the given Axes."""
    names = {PROBE: "probe, same for all", "model": "the model's own head or space"}
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
