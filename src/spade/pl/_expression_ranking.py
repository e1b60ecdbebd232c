"""How well every gene is predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spade._samples.shown.colours import SAFE
from spade.core.checks import check_count
from spade.core.rng import as_seed
from spade.pl._draw.axes import GREY, SMALL, TEXT, clip, finish, given_axes, new_figure, title
from spade.pl._draw.words import words
from spade.tl._expression.gene_ranking import gene_ranking

#: Inches per gene, and of a panel.
ROW, WIDTH = 0.19, 3.4


def expression_ranking(
    table: pd.DataFrame,
    *,
    n_genes: int = 30,
    n_boot: int = 2_000,
    rng: int | np.random.Generator = 0,
    figsize: tuple[float, float] | None = None,
    ax: Axes | NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Draw the correlation of predicted and measured expression for every gene, best first.

    Dots are means over held-out sections, lines their 95 % bootstrap intervals (none with fewer than two sections). The
    dashed line at 0 is the mean-expression control. A benchmark gets one panel per protocol, with one colour per
    representation; genes are ordered by the first representation. If gene sets differ between folds, the genes measured
    in most sections are drawn.

    Parameters
    ----------
    table
        From :func:`spade.tl.expression_trust` or :func:`spade.tl.expression_benchmark`.
    n_genes
        Most genes per panel. Genes that do not vary in any section are not drawn; the title gives their number.
    n_boot
        Bootstrap samples of a benchmark's sections.
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
    TypeError, ValueError
        Not such a table, no gene that varies, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(3, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> table = sp.tl.expression_benchmark(samples, use_rep="X_texture", n_genes=20)
    >>> sp.pl.expression_ranking(table).shape
    (2,)
    """
    check_count("n_genes", n_genes)
    panels = gene_ranking(table, check_count("n_boot", n_boot), as_seed(rng))
    shown = {name: _chosen(name, rows, n_genes) for name, rows in panels.items()}
    axes = _axes(ax, list(shown), max(len(genes) for genes in shown.values()), figsize)
    for panel, (name, genes) in zip(axes, shown.items(), strict=True):
        _draw(panel, words(name), panels[name], genes)
    return finish(axes, show=show, return_fig=return_fig)


def _chosen(name: str, rows: pd.DataFrame, n_genes: int) -> list[str]:
    """Return the genes to draw, best first."""
    first = rows[rows["representation"] == rows["representation"].iloc[0]].dropna(subset="pearson")
    if first.empty:
        raise ValueError(f"table: no gene varies in any section ({name}), so none has a correlation.")
    order = ["n_sections", "pearson"] if "n_sections" in first else ["pearson"]
    most = first.sort_values(order, ascending=False, kind="stable").head(n_genes)
    return most.sort_values("pearson", ascending=False, kind="stable")["gene"].astype(str).tolist()


def _axes(ax: Any, names: list[str], n_genes: int, figsize: object) -> NDArray[Any]:
    if ax is not None:
        return given_axes(ax, (len(names),), ", ".join(names), figsize=figsize)
    figure = new_figure((WIDTH + 0.4) * len(names), ROW * max(n_genes, 5) + 1.2, figsize)
    return figure.subplots(1, len(names), squeeze=False)[0]


def _draw(ax: Axes, name: str, rows: pd.DataFrame, genes: list[str]) -> None:
    representations = list(dict.fromkeys(rows["representation"]))
    step = 0.6 / len(representations)
    for i, representation in enumerate(representations):
        own = rows[rows["representation"] == representation].set_index("gene").reindex(genes)
        y = np.arange(len(genes)) + step * (i - (len(representations) - 1) / 2)
        colour = SAFE[i % len(SAFE)]
        ax.hlines(y, own["low"], own["high"], color=colour, linewidth=1.0)
        ax.plot(own["pearson"], y, "o", color=colour, markersize=3.5, label=representation)
    ax.axvline(0, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    ax.set_yticks(range(len(genes)), [clip(gene) for gene in genes], fontsize=SMALL)
    ax.set_ylim(len(genes) - 0.4, -0.6)
    ax.set_xlabel("Pearson correlation, measured and predicted", fontsize=TEXT)
    ax.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    ax.spines[["top", "right"]].set_visible(False)
    if representations != [""]:
        ax.legend(fontsize=SMALL, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.12), borderaxespad=0)
    all_genes = rows.groupby("gene")["pearson"].max()
    still = int(all_genes.isna().sum())
    constant = f", {still} without variance" if still else ""
    title(ax, f"{name}: {len(genes)} of {len(all_genes)} genes{constant}")
