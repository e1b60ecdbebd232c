"""Prototypes, how near they are to each other, and the experts that they belong to."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from spade._checks import plural
from spade._samples.experts import palette
from spade.core.arrays import Floats
from spade.core.checks import brief, check_choice
from spade.core.experts.routing import Routing
from spade.models import SpadeModel
from spade.pl._draw.axes import GREY, SMALL, TEXT, colour_bar, finish, given_axes, new_figure, title
from spade.pl._draw.colouring import Colouring

METHODS = ("average", "complete", "single", "ward")
#: Most prototypes whose numbers are written, and inches of a row and of a column.
MOST_NAMED, ROW, COLUMN = 60, 0.16, 0.24
#: Inches of the tree, and of all around the panels.
TREE, AROUND = 1.6, 1.9


def routing(
    model: SpadeModel | Routing,
    *,
    method: str = "average",
    cmap: str | Colormap | None = None,
    figsize: tuple[float, float] | None = None,
    ax: NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Draw how prototypes lead to experts.

    Left, a dendrogram of the prototypes by the distances between their centroids. Right, the weight of every expert
    for a patch that lies on a prototype, one row each; frames mark the expert that prototypes belong to. Rows with a
    single dark cell are hard choices; rows with several are patches that experts share.

    Parameters
    ----------
    model
        From :func:`spade.tl.train_spade`, or the routing that :func:`spade.tl.cluster_experts` returns.
    method
        How clusters of prototypes are compared: ``"average"``, ``"complete"``, ``"single"`` or ``"ward"``, as in
        :func:`scipy.cluster.hierarchy.linkage`.
    cmap
        Colour map of weights. None: ``"Blues"``.
    figsize
        Width and height of the figure in inches.
    ax
        Two Axes, for the dendrogram and the weights; None: a new figure.
    show
        Call ``plt.show()``.
    return_fig
        Return the figure instead of the Axes.

    Returns
    -------
    Array of two Axes: dendrogram and weights.

    Raises
    ------
    TypeError
        ``model`` that has no routing.
    ValueError
        Another method, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> found = sp.tl.cluster_experts(samples, use_rep="X_texture", n_prototypes=6, n_experts=3)
    >>> sp.pl.routing(found).shape
    (2,)
    """
    found = model.routing if isinstance(model, SpadeModel) else model
    if not isinstance(found, Routing):
        raise TypeError(
            f"model={brief(model)}: expected a SpadeModel, from sp.tl.train_spade, or a Routing, from "
            "sp.tl.cluster_experts."
        )
    check_choice("method", method, METHODS)
    colours = Colouring(cmap=cmap)
    axes = _panels(ax, found, figsize)
    order = _draw_tree(axes[0], found.centroids, method)
    _draw_weights(axes[1], found, order, colours.cmap or "Blues")
    return finish(axes, show=show, return_fig=return_fig)


def _panels(ax: Any, found: Routing, figsize: object) -> NDArray[Any]:
    if ax is not None:
        return given_axes(ax, (2,), "dendrogram, weights", figsize=figsize)
    width, height = COLUMN * max(found.n_experts, 6), min(max(ROW * found.n_prototypes, 1.8), 9.0)
    figure = new_figure(TREE + width + AROUND, height + 0.9, figsize)
    return figure.subplots(1, 2, width_ratios=[TREE, width])


def _draw_tree(ax: Axes, centroids: Floats, method: str) -> list[int]:
    """Draw the dendrogram, its root on the left, and return the prototypes from top to bottom."""
    from scipy.cluster.hierarchy import dendrogram, linkage

    order = [0]
    if len(centroids) > 1:
        tree = dendrogram(linkage(centroids, method), no_plot=True)
        order = tree["leaves"]
        for heights, places in zip(tree["dcoord"], tree["icoord"], strict=True):
            ax.plot(heights, (np.array(places) - 5) / 10, color=GREY, linewidth=0.8)  # leaves are at 5, 15, 25, …
    ax.set(ylim=(len(centroids) - 0.5, -0.5), yticks=[])
    ax.set_xlim(left=ax.get_xlim()[1], right=0)
    ax.set_xlabel("distance", fontsize=TEXT)
    ax.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    ax.spines[["top", "right", "left"]].set_visible(False)
    title(ax, plural(len(centroids), "prototype"))
    return order


def _draw_weights(ax: Axes, found: Routing, order: list[int], cmap: Any) -> None:
    """Draw the weights that every prototype gives to the experts, and mark its own."""
    weights = found.weights(found.centroids * found.scale + found.mean)[order]
    picture = ax.imshow(weights, cmap=cmap, norm=Normalize(0, 1), aspect="auto", interpolation="nearest")
    colours = palette(found.n_experts)
    row = 0
    for expert, rows in groupby(found.assignment[order].tolist()):
        n = len(list(rows))
        frame = Rectangle((expert - 0.5, row - 0.5), 1, n, fill=False, edgecolor=colours[expert], linewidth=1.6)
        ax.add_patch(frame)
        row += n
    ax.set_xticks(range(found.n_experts), [str(expert) for expert in range(found.n_experts)])
    groups = found.groups or ("",) * found.n_prototypes
    names = [f"{i} {groups[i]}" if len(set(groups)) > 1 else str(i) for i in order]
    ax.set_yticks(range(len(names)), names)
    if len(names) > MOST_NAMED:
        ax.set_yticks([])
    ax.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    for label, colour in zip(ax.get_xticklabels(), colours, strict=True):
        label.set(color=colour, fontweight="bold")
    ax.set_xlabel("expert", fontsize=TEXT)
    n_idle = int((~found.active).sum())
    title(ax, f"{plural(found.n_experts, 'expert')}{f', {n_idle} untrained' if n_idle else ''}")
    colour_bar(ax, picture, "weight of the expert")
