"""Experts and routing entropy on the tissue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spade import _keys
from spade._checks import check_idle, plural
from spade._samples.experts import expert_weights
from spade._samples.open import Samples, iter_samples
from spade._samples.shown.colours import ColumnColours, join_color, join_columns, read_color, read_column
from spade.core.arrays import Floats
from spade.core.checks import check_flag, check_positive, check_share
from spade.core.experts.routing import routing_entropy
from spade.pl._draw.axes import NARROW, colour_bar, finish, panel_grid, title
from spade.pl._draw.colouring import Colouring
from spade.pl._draw.tissue import View, common_frames, draw_spots, draw_tissue, views
from spade.pl._draw.values import FADE, draw_values

PANEL = 3.2


def expert_clusters(
    samples: Samples,
    *,
    key: str = _keys.STEM,
    color: str | None = None,
    entropy: bool | None = None,
    layer: str | None = None,
    normalized: bool = False,
    palette: str | Sequence[str] | Mapping[str, str] | None = None,
    groups: str | Sequence[str] | None = None,
    cmap: str | Colormap | None = None,
    vmin: float | str | None = None,
    vmax: float | str | None = None,
    size: float = 1.0,
    alpha_img: float = FADE,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
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
        What colours the left panel instead of the expert, as in :func:`spatial`: an ``obs`` column, a gene, or a column
        of ``obsm``.
    entropy
        Whether to draw the right panel; None: only if there are routing weights of several experts.
    layer, normalized
        Where the expression of a gene is, as in :func:`spatial`.
    palette, groups, cmap, vmin, vmax
        Colours of the left panel, as in :func:`spatial`.
    size
        Factor on the true size of the spots.
    alpha_img
        Opacity of the image, from 0 to 1.
    patches_key
        What :func:`spade.pp.patches` wrote; it holds the image, scale and spot size.
    table_key
        Table; may be left out when there is one.
    figsize
        Width and height of the figure in inches.
    ax
        As many Axes as there are panels, row by row; None: a new figure.
    show
        Call ``plt.show()``.
    return_fig
        Return the figure instead of the Axes.

    Returns
    -------
    Array of Axes, ``(n_sections, 2)``, or ``(n_sections, 1)`` without entropy. Axes are in µm from the upper left
    corner of the image. Open circles are spots without a valid patch, or without a value.

    Raises
    ------
    KeyError
        No experts or clusters with this ``key``, no weights although ``entropy=True`` (or only in some samples), no
        such column, gene or group, or no patches.
    ValueError
        Settings without effect, or a wrong number of ``ax``.

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
    if color is None:
        check_idle([("layer", layer, None), ("normalized", normalized, False)], "experts are no expression of a gene")
    colouring = Colouring(palette, groups, cmap, vmin, vmax)
    check_positive("size", size)
    check_share("alpha_img", alpha_img, "[0, 1]")
    drawn: list[View] = []
    values: list[ColumnColours] = []
    weights: list[NDArray[np.float32]] = []
    without: list[str] = []
    for sample in iter_samples(samples, table_key=table_key):
        if color is None:
            series, colours = read_column(sample, None, key)
        else:
            series, colours = read_color(sample, color, layer, normalized=normalized)
        sections = views(sample, patches_key)
        drawn += sections
        values += [(series.iloc[view.rows], colours) for view in sections]
        several = sample.table.obsm.get(_keys.weights(key), np.empty((0, 0))).shape[1] > 1
        if entropy or (entropy is None and several):
            of_sample = expert_weights(sample, key)
            weights += [of_sample[view.rows] for view in sections]
        elif entropy is None:
            without.append(sample.name)
    if weights and without:
        raise KeyError(
            f"{', '.join(without)}: the routing weights obsm[{_keys.weights(key)!r}] are not there, but other samples "
            "have them. Run sp.tl.embed on all samples, or pass entropy=False."
        )
    column = join_columns("expert", values, experts=True) if color is None else join_color(color, values)
    (shown,) = colouring.of([column])
    if color is None and groups is None:
        shown = replace(shown, missing="no patch")
    frames = common_frames([view.frame() for view in drawn])
    aspect = (frames[0][3] - frames[0][1]) / (frames[0][2] - frames[0][0])
    shape = len(drawn), 2 if weights else 1
    panels = f"{plural(shape[0], 'section')} × {shape[1]}"
    axes = panel_grid(shape, (PANEL + 1.0, PANEL * aspect + 0.5), panels, ax=ax, figsize=figsize, least=NARROW)
    start = 0
    for i, (view, box) in enumerate(zip(drawn, frames, strict=True)):
        rows = slice(start, start + len(view.rows))
        draw_values(axes[i, 0], view, box, shown, rows, alpha_img=alpha_img, size=size)
        start += len(view.rows)
        if weights:
            _draw_entropy(axes[i, 1], view, box, weights[i], alpha_img=alpha_img, size=size)
    return finish(axes, show=show, return_fig=return_fig)


def _draw_entropy(
    ax: Axes, view: View, box: Floats, weights: NDArray[np.float32], *, alpha_img: float, size: float
) -> None:
    draw_tissue(ax, view, box, alpha_img)
    entropy, n_experts = routing_entropy(weights.astype(np.float64)), max(weights.shape[1], 2)
    top = float(np.log(n_experts))
    spots = draw_spots(ax, view, size, cmap="viridis", norm=Normalize(0, top), linewidth=0)
    spots.set_array(np.ma.masked_invalid(entropy))
    known = entropy[np.isfinite(entropy)]
    title(ax, f"routing entropy, mean {known.mean():.2f} nats" if len(known) else "routing entropy: none known")
    bar = colour_bar(ax, spots, f"entropy (nats), up to log {n_experts}")
    bar.set_ticks([0, top / 2, top], labels=["0", f"{top / 2:.2f}", f"{top:.2f}"])
