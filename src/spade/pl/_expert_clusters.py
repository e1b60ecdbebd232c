"""Experts and routing entropy on the tissue."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from spade import _keys
from spade._checks import plural
from spade._samples.experts import expert_weights
from spade._samples.open import Samples, iter_samples
from spade._samples.shown.colours import Column, ColumnColours, join_columns, read_column
from spade.core.arrays import Floats
from spade.core.checks import check_flag, check_text
from spade.core.experts.routing import routing_entropy
from spade.pl._draw.axes import GREY, colour_bar, dots_legend, finish, given_axes, new_figure, title
from spade.pl._draw.tissue import View, common_frames, draw_spots, draw_tissue, views

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
    """Show the expert of every spot on the tissue, and how certain the routing is.

    One row per section, all to one scale: left the spots, at their true size, coloured by the expert with the largest
    weight (or, before :func:`spade.tl.embed`, by the cluster of :func:`spade.tl.cluster_experts`); right the entropy of
    the routing weights, from 0 (a single expert) to log E (all experts equal).

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    key
        Stem of the keys that :func:`spade.tl.embed` or :func:`spade.tl.cluster_experts` wrote.
    color
        ``obs`` column that colours the left panel instead of the expert, a category or a number.
    entropy
        Whether to draw the right panel; None: only if there are routing weights.
    patches_key
        What :func:`spade.pp.patches` wrote; it holds the image, scale and spot size.
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
        No experts or clusters with this ``key``, no weights although ``entropy=True`` (or only in some samples), no
        such column, or no patches.
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
    if entropy is not None:
        check_flag("entropy", entropy)
    if color is not None:
        check_text("color", color)
    drawn: list[View] = []
    values: list[ColumnColours] = []
    weights: list[NDArray[np.float32]] = []
    without: list[str] = []
    for sample in iter_samples(samples, table_key=table_key):
        series, colours = read_column(sample, color, key)
        sections = views(sample, patches_key)
        drawn += sections
        values += [(series.iloc[view.rows], colours) for view in sections]
        if entropy or (entropy is None and _keys.weights(key) in sample.table.obsm):
            of_sample = expert_weights(sample, key)
            weights += [of_sample[view.rows] for view in sections]
        elif entropy is None:
            without.append(sample.name)
    if weights and without:
        raise KeyError(
            f"{', '.join(without)}: the routing weights obsm[{_keys.weights(key)!r}] are not there, but other samples "
            "have them. Run sp.tl.embed on all samples, or pass entropy=False."
        )
    column = join_columns(color or "expert", values, experts=color is None)
    frames = common_frames([view.frame() for view in drawn])
    axes = _panels(ax, len(drawn), 2 if weights else 1, frames[0])
    start = 0
    for i, (view, box) in enumerate(zip(drawn, frames, strict=True)):
        _draw_column(axes[i, 0], view, box, column, slice(start, start + len(view.rows)))
        start += len(view.rows)
        if weights:
            _draw_entropy(axes[i, 1], view, box, weights[i])
    finish(show=show)
    return axes


def _panels(ax: Any, n_rows: int, n_columns: int, frame: Floats) -> NDArray[Any]:
    if ax is not None:
        return given_axes(ax, (n_rows, n_columns), f"{plural(n_rows, 'section')} × {n_columns}")
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
    missing = "no patch" if column.name == "expert" else "missing"
    dots_legend(ax, column.legend(rows, missing), f"{column.name} (spots)")


def _draw_entropy(ax: Axes, view: View, box: Floats, weights: NDArray[np.float32]) -> None:
    draw_tissue(ax, view, box, FADE)
    entropy, n_experts = routing_entropy(weights.astype(np.float64)), max(weights.shape[1], 2)
    top = float(np.log(n_experts))
    spots = draw_spots(ax, view, cmap="viridis", norm=Normalize(0, top), linewidth=0)
    spots.set_array(np.ma.masked_invalid(entropy))
    known = entropy[np.isfinite(entropy)]
    title(ax, f"routing entropy, mean {known.mean():.2f} nats" if len(known) else "routing entropy: none known")
    bar = colour_bar(ax, spots, f"entropy (nats), up to log {n_experts}")
    bar.set_ticks([0, top / 2, top], labels=["0", f"{top / 2:.2f}", f"{top:.2f}"])
