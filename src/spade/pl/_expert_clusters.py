"""Experts and routing entropy on the tissue."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from spade import _keys
from spade._samples.experts import expert_weights
from spade._samples.open import Samples, iter_samples
from spade.core.experts.routing import routing_entropy
from spade.pl._draw.axes import GREY, colour_bar, dots_legend, finish, given_axes, new_figure, title
from spade.pl._draw.colours import Column, join_columns, read_column
from spade.pl._draw.tissue import Floats, View, common_frames, draw_spots, draw_tissue, views

FADE = 0.55
PANEL = 3.2


def expert_clusters(
    samples: Samples,
    *,
    key: str = _keys.STEM,
    color: str | None = None,
    entropy: bool | None = None,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    ax: Axes | NDArray[Any] | None = None,
    show: bool = False,
) -> NDArray[Any]:
    """Show where on the tissue which expert is at work, and how sure the routing is.

    One row per section, all to one scale: left the spots, at their true size, coloured by the expert with the largest weight (by
    the cluster of :func:`spade.tl.cluster_experts` if :func:`spade.tl.embed` has not been run); right the entropy of
    the routing weights, from 0 (one expert alone) to log E (all alike).

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these.
    key
        Stem of the keys that :func:`spade.tl.embed` or :func:`spade.tl.cluster_experts` wrote.
    color
        ``obs`` column to colour the left panel by in place of the expert, a category or a number.
    entropy
        Whether to draw the right panel; None: if there are routing weights.
    patches_key
        What :func:`spade.pp.patches` wrote: it knows image, scale and spot size.
    table_key
        Table; may be left out when there is one.
    ax
        As many Axes as there are panels, row by row; None: a new figure.
    show
        Call ``plt.show()``.

    Returns
    -------
    Array of Axes, ``(n_sections, 2)``, or ``(n_sections, 1)`` without entropy. Axes are in µm from the upper left
    corner of the image. Open circles are spots without a valid patch, or without a value.

    Raises
    ------
    KeyError
        No experts or clusters with this ``key``, no weights though ``entropy=True`` (or in some samples only), no such
        column, no patches.
    ValueError
        A wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> routing = sp.tl.cluster_experts(samples, use_rep="X_texture", n_prototypes=4, n_experts=2)
    >>> sp.pl.expert_clusters(samples).shape
    (2, 1)
    """
    drawn: list[View] = []
    found, entropies, n_experts, lacking = [], [], [], []
    for sample in iter_samples(samples, table_key=table_key):
        series, colours = read_column(sample, color, key)
        weights = None
        if entropy or (entropy is None and _keys.weights(key) in sample.table.obsm):
            weights = expert_weights(sample, key)
        elif entropy is None:
            lacking.append(sample.name)
        for view in views(sample, patches_key):
            drawn.append(view)
            found.append((series.iloc[view.rows], colours))
            if weights is not None:
                entropies.append(routing_entropy(weights[view.rows].astype(np.float64)))
                n_experts.append(weights.shape[1])
    if entropies and lacking:
        raise KeyError(
            f"{', '.join(lacking)}: the routing weights obsm[{_keys.weights(key)!r}] are not there, but other samples have "
            "them. Run sp.tl.embed on all samples, or pass entropy=False."
        )
    column = join_columns(color or "expert", found, experts=color is None)
    frames = common_frames([view.frame() for view in drawn])
    n_columns = 2 if entropies else 1
    axes = _panels(ax, len(drawn), n_columns, frames[0])
    start = 0
    for i, (view, box) in enumerate(zip(drawn, frames, strict=True)):
        rows = slice(start, start + len(view.rows))
        start += len(view.rows)
        _draw_column(axes[i, 0], view, box, column, rows)
        if entropies:
            _draw_entropy(axes[i, 1], view, box, entropies[i], n_experts[i])
    finish(show)
    return axes


def _panels(ax: Any, n_rows: int, n_columns: int, frame: Floats) -> NDArray[Any]:
    if ax is not None:
        return given_axes(ax, (n_rows, n_columns), f"{n_rows} sections × {n_columns}")
    aspect = (frame[3] - frame[1]) / (frame[2] - frame[0])
    figure = new_figure((PANEL + 1.0) * n_columns, (PANEL * aspect + 0.5) * n_rows)
    return figure.subplots(n_rows, n_columns, squeeze=False)


def _draw_column(ax: Axes, view: View, box: Floats, column: Column, rows: slice) -> None:
    draw_tissue(ax, view, box, FADE)
    title(ax, f"{view.name}: {column.name}")
    if column.colours is None:
        spots = draw_spots(ax, view, cmap="cividis", linewidth=0)
        finite = column.values[np.isfinite(column.values)]
        spots.set_norm(Normalize(finite.min(), finite.max()) if len(finite) else Normalize(0, 1))
        spots.set_array(np.ma.masked_invalid(column.values[rows]))
        colour_bar(ax, spots, column.name)
        return
    faces = column.faces(rows)
    edges = [GREY if face == "none" else "none" for face in faces]
    draw_spots(ax, view, facecolors=faces, edgecolors=edges, linewidth=0.6)
    dots_legend(ax, column.legend(rows, "no patch" if column.name == "expert" else "missing"), f"{column.name} (spots)")


def _draw_entropy(ax: Axes, view: View, box: Floats, entropy: NDArray[np.floating], n_experts: int) -> None:
    draw_tissue(ax, view, box, FADE)
    top = float(np.log(max(n_experts, 2)))
    spots = draw_spots(ax, view, cmap="viridis", norm=Normalize(0, top), linewidth=0)
    spots.set_array(np.ma.masked_invalid(entropy))
    known = entropy[np.isfinite(entropy)]
    title(ax, f"routing entropy, mean {known.mean():.2f} nats" if len(known) else "routing entropy: none known")
    bar = colour_bar(ax, spots, f"entropy (nats), up to log {max(n_experts, 2)}")
    bar.set_ticks([0, top / 2, top], labels=["0", f"{top / 2:.2f}", f"{top:.2f}"])
