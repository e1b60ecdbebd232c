"""How many prototypes and experts the image features ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from tqdm.auto import tqdm

from spade._samples.expert_colours import palette
from spade._samples.features import read_features
from spade._samples.obs import group_labels
from spade._samples.open import Samples, iter_samples
from spade.core.arrays import Floats
from spade.core.checks import check_count
from spade.core.experts.clustering import two_stage, within_squares
from spade.core.experts.routing import feature_scale
from spade.core.rng import as_seed, numpy_stream
from spade.models import SpadeConfig
from spade.pl._draw.axes import GREY, LEGEND_ROWS, TEXT, finish, given_axes, new_figure, title

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
    ax: NDArray[Any] | None = None,
    show: bool = False,
) -> NDArray[Any]:
    """Draw how much of the features' variance clusters leave over, against their number (the paper's figure to choose by).

    Left, the first stage: spots of each group by number of prototypes. Right, the second: the prototypes of all groups
    together, by number of experts. Choose where a curve stops falling steeply; beyond it, clusters split what is alike. More
    experts also mean fewer spots for each.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these, with image features.
    use_rep
        ``obsm`` key of the image features.
    groupby
        ``obs`` column of the groups of the first stage; None: one group.
    counts
        Numbers of clusters to try; those above the number of spots (or prototypes) are left out.
    n_prototypes
        Prototypes per group that the right panel clusters.
    feature_scaling
        As in :func:`spade.tl.cluster_experts`.
    max_spots
        Spots per group, drawn at random where there are more.
    table_key
        Table; may be left out when there is one.
    rng
        Seed.
    ax
        Two Axes; None: a new figure.
    show
        Call ``plt.show()``.

    Returns
    -------
    Array of two Axes. The lines hold the sums of squares within clusters, divided by that of one cluster.

    Raises
    ------
    KeyError
        ``use_rep`` or ``groupby`` that is not there.
    ValueError
        Features of different widths, no valid row, or counts that are no whole numbers.

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
    counts = sorted({check_count("counts", k) for k in counts} | {1})
    for name, value in (("n_prototypes", n_prototypes), ("max_spots", max_spots)):
        check_count(name, value)
    seed = as_seed(rng)
    x, groups = _features(samples, use_rep, groupby, max_spots, seed, table_key)
    names = np.unique(groups)
    axes = new_figure(7.2, 2.8).subplots(1, 2) if ax is None else given_axes(ax, (2,), "prototypes and experts")
    mean, scale = feature_scale(x, feature_scaling)
    colours = palette(len(names))
    fitting = {name: [k for k in counts if k <= np.sum(groups == name)] for name in names.tolist()}
    with tqdm(total=sum(map(len, fitting.values())), desc="clustering", unit="k-means") as bar:
        for index, (name, own) in enumerate(fitting.items()):
            rows = ((x[groups == name] - mean) / scale).astype(np.float32)
            left = within_squares(rows, own, numpy_stream(seed, "choice", index), lambda _: bar.update())
            axes[0].plot(own, left, "o-", color=colours[index], label=name or "all spots", linewidth=1.2, markersize=3)
    fewest = min(int(np.sum(groups == name)) for name in names)
    fine = two_stage(
        x, groups, n_prototypes=min(n_prototypes, fewest), n_experts=1, feature_scaling=feature_scaling, seed=seed
    ).centroids.astype(np.float32)
    own = [k for k in counts if k <= len(fine)]
    axes[1].plot(
        own,
        within_squares(fine, own, numpy_stream(seed, "choice of experts")),
        "o-",
        color=GREY,
        linewidth=1.2,
        markersize=3,
    )
    _dress(axes[0], "prototypes per group", "Stage 1: spots")
    _dress(axes[1], "experts", f"Stage 2: {len(fine)} prototypes")
    if groupby is not None:
        axes[0].legend(
            title=groupby, fontsize=TEXT, title_fontsize=TEXT, frameon=False, ncols=-(-len(names) // LEGEND_ROWS)
        )
    finish(show)
    return np.asarray(axes)


def _features(
    samples: Samples, use_rep: str, groupby: str | None, max_spots: int, seed: int, table_key: str | None
) -> tuple[Floats, NDArray[np.str_]]:
    """Valid features and their groups, at most ``max_spots`` of a group."""
    features, groups = [], []
    for sample in iter_samples(samples, table_key=table_key):
        x = read_features(sample, use_rep)
        rows = np.flatnonzero(~np.isnan(x).any(1))
        features.append(x[rows])
        groups.append(group_labels(sample, groupby)[rows] if groupby else np.zeros(len(rows), dtype="U1"))
    widths = sorted({x.shape[1] for x in features})
    if len(widths) > 1:
        raise ValueError(f"obsm[{use_rep!r}] differs in width between samples: {widths}. Encode all of them alike.")
    x, labels = np.concatenate(features), np.concatenate(groups)
    if not len(x):
        raise ValueError(f"obsm[{use_rep!r}] has no valid row in any sample: all patches are off their images.")
    drawn = numpy_stream(seed, "spots to choose by")
    kept = [drawn.permutation(np.flatnonzero(labels == name))[:max_spots] for name in np.unique(labels)]
    rows = np.sort(np.concatenate(kept))
    return x[rows], labels[rows]


def _dress(ax: Axes, label: str, heading: str) -> None:
    title(ax, heading)
    ax.set_xlabel(label, fontsize=TEXT)
    ax.set_ylabel("squares within clusters\n(share of one cluster)", fontsize=TEXT)
    ax.set_ylim(0, 1.05)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(labelsize=TEXT)
    ax.spines[["top", "right"]].set_visible(False)
