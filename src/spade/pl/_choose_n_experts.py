"""Curves to choose the number of prototypes and experts by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from spade._samples.experts import palette
from spade._samples.open import Samples
from spade.core.checks import brief, check_count, check_text
from spade.core.rng import as_seed
from spade.models import SpadeConfig
from spade.pl._draw.axes import GREY, LEGEND_ROWS, TEXT, figure_size, finish, given_axes, new_figure, title
from spade.tl._training.choose_n_experts import ClusterCurve, read_groups, sweep_clusters

COUNTS = (1, 2, 4, 8, 12, 16, 24, 32)


def choose_n_experts(
    samples: Samples,
    *,
    use_rep: str,
    groupby: str | None = None,
    counts: Sequence[int] = COUNTS,
    n_prototypes: int = SpadeConfig.n_prototypes,
    feature_scaling: str = SpadeConfig.feature_scaling,
    max_spots: int = 20_000,
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
    figsize: tuple[float, float] | None = None,
    ax: NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Draw the variance of the features within clusters against the number of clusters, as in the SPADE paper.

    Left, the first stage: spots of each group by number of prototypes. Right, the second: the prototypes of all groups
    together, by number of experts. Choose the number at which a curve stops falling steeply; with more, clusters split
    similar spots, and each expert has fewer spots.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these, with image features.
    use_rep
        ``obsm`` key of the image features.
    groupby
        ``obs`` column of the groups of the first stage; None: one group.
    counts
        Numbers of clusters to try; numbers above that of spots (or prototypes) are left out.
    n_prototypes
        Prototypes per group that the right panel clusters.
    feature_scaling
        As in :func:`spade.tl.cluster_experts`.
    max_spots
        Most spots per group; of larger groups a random sample is taken.
    table_key
        Table; may be left out when there is one.
    rng
        Seed.
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
    Array of two Axes. The lines hold the sums of squares within clusters, divided by that of one cluster.

    Raises
    ------
    KeyError
        ``use_rep`` or ``groupby`` that is not there.
    ValueError
        Features of different widths, no valid row, or counts that are not whole numbers.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> left, right = sp.pl.choose_n_experts(samples, use_rep="X_texture", groupby="organ", counts=(1, 2, 4, 8))
    >>> len(left.lines), len(right.lines)
    (2, 1)
    """
    check_text("use_rep", use_rep)
    if groupby is not None:
        check_text("groupby", groupby)
    if isinstance(counts, str) or not isinstance(counts, Iterable):
        raise ValueError(f"counts={brief(counts)}: expected a list of whole numbers.")
    wanted = sorted({check_count("counts", k) for k in counts} | {1})
    for name, value in (("n_prototypes", n_prototypes), ("max_spots", max_spots)):
        check_count(name, value)
    seed = as_seed(rng)
    size = figure_size(figsize, 7.2, 2.8)
    axes = None if ax is None else given_axes(ax, (2,), "prototypes and experts", figsize=figsize)
    x, groups = read_groups(samples, use_rep, groupby, max_spots, table_key, seed)
    sweep = sweep_clusters(x, groups, wanted, n_prototypes=n_prototypes, feature_scaling=feature_scaling, seed=seed)
    axes = new_figure(*size).subplots(1, 2) if axes is None else axes
    colours = palette(len(sweep.prototypes))
    for colour, (name, curve) in zip(colours, sweep.prototypes.items(), strict=True):
        _draw(axes[0], curve, colour, name or "all spots")
    _draw(axes[1], sweep.experts, GREY, "all prototypes")
    _dress(axes[0], "prototypes per group", "Stage 1: spots")
    _dress(axes[1], "experts", f"Stage 2: {sweep.n_prototypes} prototypes")
    if groupby is not None:
        n_columns = -(-len(sweep.prototypes) // LEGEND_ROWS)
        axes[0].legend(title=groupby, fontsize=TEXT, title_fontsize=TEXT, frameon=False, ncols=n_columns)
    return finish(np.asarray(axes), show=show, return_fig=return_fig)


def _draw(ax: Axes, curve: ClusterCurve, colour: str, label: str) -> None:
    ax.plot(curve.n_clusters, curve.share, "o-", color=colour, label=label, linewidth=1.2, markersize=3)


def _dress(ax: Axes, label: str, heading: str) -> None:
    title(ax, heading)
    ax.set_xlabel(label, fontsize=TEXT)
    ax.set_ylabel("squares within clusters\n(share of one cluster)", fontsize=TEXT)
    ax.set_ylim(0, 1.05)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(labelsize=TEXT)
    ax.spines[["top", "right"]].set_visible(False)
