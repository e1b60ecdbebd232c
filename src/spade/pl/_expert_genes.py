"""Marker genes of all experts in one dot plot."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from spade._checks import check_pairs
from spade._samples.shown.colours import expert_colours
from spade.core.checks import check_count, check_flag
from spade.pl._draw.axes import GREY, SMALL, TEXT, finish, given_axes, new_figure

COLUMNS = ("expert", "gene", "rank", "log_fold_change", "share_in")
#: Inches per gene and per expert, and the diameter in points of a dot of share 1.
WIDTH, HEIGHT, DOT = 0.12, 0.16, 7.5
#: Inches: least height of the panel beside legend and colour bar; height, width and distance of the bar.
MIN_WIDTH, BAR, BAR_WIDTH, GAP = 1.7, 0.85, 0.08, 0.12
#: Quantile of the absolute values at which the colours end.
TOP = 0.98


def expert_genes(
    table: pd.DataFrame,
    *,
    n_genes: int = 5,
    scale: bool = False,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> Axes | Figure:
    """Show the best genes of every expert, and their expression in the other experts.

    Parameters
    ----------
    table
        What :func:`spade.tl.rank_expert_genes` returned.
    n_genes
        Best genes per expert; a gene that is best in several experts is listed with the one where its rank is highest.
    scale
        Whether to divide every gene's log fold changes by their mean absolute value over experts. This shows genes with
        small changes as clearly as genes with large ones, but hides the size of the changes.
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
    The Axes: a row per expert and a column per gene, in the order of the experts, whose colours are above their genes.
    The size of a dot is the share of the expert's spots that express the gene, its colour the log2 fold change against
    all other spots, white at 0.

    Raises
    ------
    TypeError, ValueError
        Not such a table, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> routing = sp.tl.cluster_experts(samples, use_rep="X_texture", n_prototypes=2, n_experts=2)
    >>> ax = sp.pl.expert_genes(sp.tl.rank_expert_genes(samples), n_genes=3)
    >>> len(ax.get_xticklabels())
    6
    """
    check_count("n_genes", n_genes)
    check_flag("scale", scale)
    table = check_pairs(table, COLUMNS, "sp.tl.rank_expert_genes(samples)")
    colours = expert_colours(set(table["expert"]))
    leads = _leads(table, list(colours), n_genes)
    genes = [gene for names in leads.values() for gene in names]
    shown = table[table["gene"].isin(genes)]
    change, share = (
        shown.pivot(index="expert", columns="gene", values=column).reindex(index=list(colours), columns=genes)
        for column in COLUMNS[3:]
    )
    if scale:
        change = change / change.abs().mean().replace(0, 1)
    panel = ax
    if ax is None:
        height = max(HEIGHT * len(colours), MIN_WIDTH) + 1.2
        panel = new_figure(WIDTH * len(genes) + 2.1, height, figsize).subplots()
    else:
        panel = given_axes(ax, (1,), "the genes", figsize=figsize)[0]
    _dots(panel, change, share, "log$_2$ fold change" + ("\n/ mean size" if scale else ""))
    _dress(panel, leads, colours)
    return finish(panel, show=show, return_fig=return_fig)


def _leads(table: pd.DataFrame, experts: list[str], n_genes: int) -> dict[str, list[str]]:
    """Return the genes to draw with each expert, best first; each gene occurs once."""
    best = table[table["rank"] <= n_genes].sort_values(["rank", "log_fold_change"], ascending=[True, False])
    best = best.drop_duplicates("gene")
    return {name: list(best.loc[best["expert"] == name, "gene"]) for name in experts}


def _dots(ax: Axes, change: pd.DataFrame, share: pd.DataFrame, label: str) -> None:
    row, column = np.indices(change.shape)
    values, sizes = change.to_numpy(dtype=float), share.to_numpy(dtype=float)
    known = np.isfinite(values) & np.isfinite(sizes)
    top = float(np.quantile(np.abs(values[known]), TOP)) if known.any() else 1.0
    points = ax.scatter(
        column[known], row[known], s=sizes[known] * DOT**2, c=values[known], cmap="RdBu_r",
        norm=TwoSlopeNorm(0, -max(top, 1e-6), max(top, 1e-6)), edgecolors=GREY, linewidths=0.3,
    )  # fmt: skip
    extent = ax.get_window_extent()
    width, height = extent.width / ax.figure.dpi, extent.height / ax.figure.dpi
    place = ax.inset_axes((1 + GAP / width, 0, BAR_WIDTH / width, min(0.5, BAR / height)))
    bar = ax.figure.colorbar(points, cax=place, extend="both")
    bar.locator = MaxNLocator(4, steps=[1, 2, 5, 10])
    bar.update_ticks()
    bar.set_label(label, fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    bar.outline.set_linewidth(0.6)
    handles = [
        Line2D([], [], linestyle="none", marker="o", markersize=DOT * np.sqrt(s), markerfacecolor="#d0d0d0",
               markeredgecolor=GREY, markeredgewidth=0.3, label=f"{s:.0%}")
        for s in (0.25, 0.5, 1.0)
    ]  # fmt: skip
    ax.legend(
        handles=handles, title="spots", alignment="left", loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=SMALL,
        title_fontsize=SMALL, frameon=False, borderaxespad=0.2, handletextpad=0.2, labelspacing=0.4,
    )  # fmt: skip


def _dress(ax: Axes, leads: dict[str, list[str]], colours: dict[str, str]) -> None:
    genes = [gene for names in leads.values() for gene in names]
    n = len(colours)
    ax.set_xticks(np.arange(len(genes)), genes, rotation=90, fontsize=SMALL)
    ax.set_yticks(np.arange(n), list(colours), fontsize=SMALL)
    ax.set(xlim=(-0.7, len(genes) - 0.3), ylim=(n - 0.4, -0.6))
    ax.set_ylabel("expert", fontsize=TEXT)
    ax.tick_params(width=0.6, length=2)
    ax.spines[:].set(linewidth=0.6, color=GREY)
    start = 0
    for expert, names in leads.items():
        if names:
            strip = Rectangle(
                (start - 0.45, 1.01), len(names) - 0.1, 0.035, facecolor=colours[expert], linewidth=0, clip_on=False,
                transform=ax.get_xaxis_transform(),
            )  # fmt: skip
            ax.add_patch(strip)
            start += len(names)
            if start < len(genes):
                ax.axvline(start - 0.5, color=GREY, linewidth=0.3, alpha=0.6, zorder=0)
