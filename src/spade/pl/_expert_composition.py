"""Experts within regions, organs or patients: their shares, and their enrichment with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from spade._checks import check_pairs, plural
from spade._samples.shown.colours import expert_colours
from spade.core.checks import brief
from spade.pl._draw.axes import GREY, LEGEND_ROWS, SMALL, TEXT, clip, finish, given_axes, new_figure, title

COLUMNS = ("value", "expert", "n_value", "share", "log2_enrichment", "log2_low", "log2_high")
#: Inches in the enrichment panel: height of an expert's line, and least and greatest height of a value's band.
LINE, MIN_BAND, MAX_BAND = 0.085, 0.45, 1.5
#: Share of a value's band that its bar and its dots fill.
FILLED = 0.8


def expert_composition(
    table: pd.DataFrame,
    *,
    colors: Mapping[str, str] | None = None,
    figsize: tuple[float, float] | None = None,
    ax: NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Show the experts of every region, organ or patient, and which of them are over-represented there.

    Parameters
    ----------
    table
        What :func:`spade.tl.expert_composition` returned, or the rows of some of its values.
    colors
        Colour of every expert, a dict. None: the default colours. A table does not know those in ``uns`` of a sample;
        pass them as ``dict(zip(experts.cat.categories, uns["spade_expert_colors"]))``, with ``experts`` its column.
    figsize
        Width and height of the figure in inches.
    ax
        Two Axes; None: a new figure.
    show
        Call ``plt.show()``.
    return_fig
        Return the figure instead of the Axes.

    Returns
    -------
    Array of two Axes. Left, the experts' shares of the spots of every value, stacked; the number of spots is below its
    name. Right, in the same order, log2 enrichment over the expected share: a dot per expert, with its 95 % interval if
    the table has one.

    Raises
    ------
    TypeError, ValueError
        Not such a table, several columns in it, an expert without a colour, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> routing = sp.tl.cluster_experts(samples, use_rep="X_texture", n_prototypes=2, n_experts=2)
    >>> table = sp.tl.expert_composition(samples, by="domain", n_boot=100)
    >>> sp.pl.expert_composition(table).shape
    (2,)
    """
    table = check_pairs(table, COLUMNS, "sp.tl.expert_composition(samples, by=...)")
    values = list(dict.fromkeys(table["value"]))
    colours = _colours(table, colors)
    wide = {
        column: table.pivot(index="value", columns="expert", values=column).reindex(index=values, columns=list(colours))
        for column in COLUMNS[2:]
    }
    axes = _panels(ax, len(values), len(colours), figsize)
    _bars(axes[0], wide["share"].fillna(0), colours)
    _enrichment(axes[1], wide, colours)
    sizes = table.groupby("value")["n_value"].first()
    names = [f"{clip(str(value))}\n{plural(sizes[value], 'spot')}" for value in values]
    axes[0].set_yticks(np.arange(len(values)), names, fontsize=TEXT)
    axes[1].set_yticks([])
    for panel in axes:
        panel.set_ylim(len(values) - 0.5, -0.5)
        panel.tick_params(axis="x", labelsize=SMALL, width=0.6, length=2.5)
        panel.tick_params(axis="y", length=0)
        panel.spines[["top", "right", "left"]].set_visible(False)
    title(axes[0], f"experts by {table['by'].iloc[0]}" if "by" in table else "experts")
    title(axes[1], "enrichment")
    _legend(axes[1], colours)
    return finish(axes, show=show, return_fig=return_fig)


def _colours(table: pd.DataFrame, colors: object) -> dict[str, str]:
    """Return the colour of every expert of the table, in the order of their numbers."""
    defaults = expert_colours(set(table["expert"]))
    if colors is None:
        return defaults
    if not isinstance(colors, Mapping):
        raise TypeError(f"colors={brief(colors)}: expected a dict from expert to colour.")
    if missing := [name for name in defaults if name not in colors]:
        raise ValueError(f"colors: no colour for experts {', '.join(missing)}.")
    if unknown := [name for name in defaults if not is_color_like(colors[name])]:
        raise ValueError(f"colors: {colors[unknown[0]]!r}, for expert {unknown[0]}, is not a colour of matplotlib.")
    return {name: colors[name] for name in defaults}


def _legend(ax: Axes, colours: Mapping[str, str]) -> None:
    handles = [Patch(facecolor=colour, label=name) for name, colour in colours.items()]
    ax.legend(
        handles=handles, title="expert", alignment="left", loc="upper left", bbox_to_anchor=(1.0, 1.0),
        ncols=-(-len(handles) // max(LEGEND_ROWS, 16)), fontsize=SMALL, title_fontsize=TEXT, frameon=False,
        handlelength=1.0, handleheight=1.0, borderaxespad=0.2, labelspacing=0.25,
    )  # fmt: skip


def _panels(ax: Any, n_values: int, n_experts: int, figsize: object) -> NDArray[Any]:
    if ax is not None:
        return given_axes(ax, (2,), "shares, enrichment", figsize=figsize)
    band = min(max(LINE * n_experts, MIN_BAND), MAX_BAND)
    legend = 0.16 * min(n_experts, max(LEGEND_ROWS, 16)) + 0.2
    figure = new_figure(6.8, max(band * n_values, legend) + 0.75, figsize)
    return figure.subplots(1, 2, width_ratios=[1.0, 1.0])


def _bars(ax: Axes, share: pd.DataFrame, colours: Mapping[str, str]) -> None:
    left = np.zeros(len(share))
    for name in share.columns:
        widths = share[name].to_numpy(dtype=float)
        ax.barh(
            np.arange(len(share)), widths, left=left, height=FILLED, color=colours[name], edgecolor="white",
            linewidth=0.4
        )  # fmt: skip
        left += widths
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set_xlabel("share of spots", fontsize=TEXT)


def _enrichment(ax: Axes, wide: Mapping[str, pd.DataFrame], colours: Mapping[str, str]) -> None:
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    n_values, n_experts = wide["share"].shape
    for edge in np.arange(n_values - 1) + 0.5:
        ax.axhline(edge, color=GREY, linewidth=0.4, alpha=0.5, zorder=0)
    offsets = FILLED * ((np.arange(n_experts) + 0.5) / n_experts - 0.5)
    size = float(np.clip(5 - n_experts / 8, 3.6, 4.6))
    for offset, name in zip(offsets, colours, strict=True):
        middle, low, high = (
            wide[column][name].to_numpy(dtype=float) for column in ("log2_enrichment", "log2_low", "log2_high")
        )
        y = np.arange(n_values) + offset
        ax.hlines(y, low, high, color=colours[name], linewidth=1.1, zorder=2)
        ax.plot(
            middle, y, "o", markersize=size, markerfacecolor=colours[name], markeredgecolor="white",
            markeredgewidth=0.3, linestyle="none", zorder=3, label=f"expert {name}",
        )  # fmt: skip
    ax.margins(x=0.06)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    interval = ", 95 % interval" if wide["log2_low"].notna().any(axis=None) else ""
    ax.set_xlabel(f"log$_2$ (share / expected){interval}", fontsize=TEXT)
