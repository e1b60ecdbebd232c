"""The most typical patches of each expert, and the genes that stand out in its spots."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from spade import _keys
from spade._checks import plural, shorten
from spade._samples.counts import log_expression
from spade._samples.experts import expert_weights
from spade._samples.open import Samples, iter_samples
from spade._samples.shown.colours import join_columns, read_column
from spade.core.checks import check_count, check_flag
from spade.pl._draw.axes import GREY, SMALL, TEXT, bare, clip, finish, given_axes, new_figure
from spade.pl._draw.tissue import View, scale_bar, views
from spade.tl._experts.top_genes import top_genes

UNIT = 1.25


def expert_gallery(
    samples: Samples,
    *,
    key: str = _keys.STEM,
    n_patches: int = 6,
    n_genes: int = 8,
    experts: Iterable[str | int] | None = None,
    layer: str | None = None,
    normalized: bool = False,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Show the most typical patches of each expert and the genes that stand out in its spots.

    The most typical patches have the largest routing weights; they are taken in turn from every section where the
    expert has spots. Of the genes that all samples with expression have in common, a t-test of the expert's spots
    against all others chooses those to show, and bars show their difference in mean log-normalised expression.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these; expression is not needed.
    key
        Stem of the keys that :func:`spade.tl.embed` wrote.
    n_patches
        Patches per expert.
    n_genes
        Genes per expert.
    experts
        Experts to show; None: all that have the largest weight in some spot.
    layer
        Layer with raw counts; None: ``X``.
    normalized
        Whether to take the values as they are, as log-normalised expression.
    patches_key
        What :func:`spade.pp.patches` wrote.
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
    Array of Axes, ``(n_experts, n_patches + 1)``: patches, then genes; panels without a patch are invisible. The label
    of a patch names its section and routing weight.

    Raises
    ------
    KeyError
        No routing weights with this ``key``, or no patches.
    ValueError
        Experts that no spot has, counts that are not raw, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> panel = sp.pp.select_genes(samples)
    >>> model = sp.tl.train_spade(samples, use_rep="X_texture", genes=panel, n_prototypes=2, n_experts=2, n_epochs=2)
    >>> sp.tl.embed(samples, model)
    >>> sp.pl.expert_gallery(samples, n_patches=3).shape
    (2, 4)
    """
    check_count("n_patches", n_patches)
    check_count("n_genes", n_genes)
    check_flag("normalized", normalized)
    gallery = _read(samples, key, layer=layer, normalized=normalized, patches_key=patches_key, table_key=table_key)
    names = _choose(experts, gallery.sizes)
    axes = _panels(ax, len(names), n_patches, figsize)
    genes = top_genes(gallery.tables, gallery.labels, names, n_genes)
    _draw_patches(axes, names, gallery, n_patches)
    for i, name in enumerate(names):
        axes[i, 0].set_ylabel(
            f"expert {name}\n{plural(gallery.sizes[name], 'spot')}",
            fontsize=TEXT,
            rotation=0,
            ha="right",
            va="center",
            labelpad=6,
        )
    _draw_genes(axes[:, -1], [genes[name] for name in names], [gallery.colours[name] for name in names])
    return finish(axes, show=show, return_fig=return_fig)


@dataclass(frozen=True)
class _Gallery:
    """What is drawn of all samples.

    Attributes
    ----------
    sections, weights
        Every section, and the routing weights of its spots ``(n, E)``.
    tables, labels
        Log-normalised expression of every sample that has any, and the expert of each row.
    colours, sizes
        Colour and number of spots of every expert.
    """

    sections: list[View]
    weights: list[NDArray[np.float32]]
    tables: list[ad.AnnData]
    labels: list[NDArray[np.object_]]
    colours: dict[str, str]
    sizes: dict[str, int]


def _read(
    samples: Samples, key: str, *, layer: str | None, normalized: bool, patches_key: str, table_key: str | None
) -> _Gallery:
    """Read all samples."""
    sections: list[View] = []
    weights, columns, tables, labels = [], [], [], []
    for sample in iter_samples(samples, table_key=table_key):
        of_sample = expert_weights(sample, key)
        series, colours = read_column(sample, None, key)
        columns.append((series, colours))
        for view in views(sample, patches_key):
            sections.append(view)
            weights.append(of_sample[view.rows])
        if sample.has_expression:
            tables.append(log_expression(sample, layer, normalized=normalized))
            experts = np.where(series.isna(), "", series.astype(str)).astype(object)
            labels.append(experts[tables[-1].obs_names.astype(int)])
    column = join_columns("expert", columns, experts=True)
    sizes = {name: int((column.values == name).sum()) for name in column.colours or ()}
    return _Gallery(sections, weights, tables, labels, column.colours or {}, sizes)


def _choose(experts: object, sizes: dict[str, int]) -> list[str]:
    """Return the experts to show."""
    present = [name for name, n in sizes.items() if n]
    if experts is None:
        if not present:
            raise ValueError("experts=None: no spot has an expert, as no patch is valid. Check sp.pl.patches(samples).")
        return present
    asked = experts if isinstance(experts, Iterable) and not isinstance(experts, str) else [experts]
    names = [str(name) for name in asked]
    if not names or set(names) - set(present):
        odd = shorten(name for name in names if name not in present) or "an empty list"
        raise ValueError(
            f"experts: {odd}: no spot has it as its largest weight; experts with spots: {shorten(present, 20)}."
        )
    return names


def _typical(weights: list[NDArray[np.float32]], expert: int, n: int) -> list[tuple[int, int]]:
    """Return (section, position) of the patches with the largest weight, in turn from each section, best first."""
    candidates = []
    for section, of_section in enumerate(weights):
        spots = np.flatnonzero(np.argmax(np.nan_to_num(of_section, nan=-1), axis=1) == expert)
        spots = spots[~np.isnan(of_section[spots, expert])]
        spots = spots[np.argsort(-of_section[spots, expert], kind="stable")][:n]
        candidates += [(turn, -float(of_section[i, expert]), section, int(i)) for turn, i in enumerate(spots)]
    best = sorted(candidates)[:n]
    return [(section, i) for _, _, section, i in sorted(best, key=lambda candidate: candidate[1:])]


def _panels(ax: Any, n_rows: int, n_patches: int, figsize: object) -> NDArray[Any]:
    shape = (n_rows, n_patches + 1)
    if ax is not None:
        return given_axes(ax, shape, f"{plural(n_rows, 'expert')} × ({n_patches} + genes)", figsize=figsize)
    figure = new_figure(UNIT * (n_patches + 1.5) + 1.6, (UNIT + 0.42) * n_rows + 0.4, figsize)
    return figure.subplots(*shape, squeeze=False, width_ratios=[*[1] * n_patches, 1.5])


def _draw_patches(axes: NDArray[Any], names: list[str], gallery: _Gallery, n: int) -> None:
    """Draw the typical patches; they are read section by section, so that each section is opened once."""
    places = [
        (i, j, section, position)
        for i, name in enumerate(names)
        for j, (section, position) in enumerate(_typical(gallery.weights, int(name), n))
    ]
    for panel in axes[:, :-1].ravel():
        panel.set_visible(False)
    for number, view in enumerate(gallery.sections):
        shown = [(i, j, position) for i, j, section, position in places if section == number]
        pixels = view.patches(np.array([position for _, _, position in shown], dtype=np.int64))
        for (i, j, position), patch in zip(shown, pixels, strict=True):
            panel = axes[i, j]
            panel.set_visible(True)
            panel.imshow(patch, extent=(0, view.side, view.side, 0), interpolation="antialiased")
            bare(panel)
            panel.spines[:].set(color=gallery.colours[names[i]], linewidth=2)
            weight = gallery.weights[number][position, int(names[i])]
            panel.set_xlabel(f"{clip(view.name)}\nw = {weight:.2f}", fontsize=SMALL, labelpad=2)
    first = axes[0, 0]
    if first.get_visible():
        first.set_xlim(0, gallery.sections[0].side)
        scale_bar(first, small=True, above=True)


def _draw_genes(panels: NDArray[Any], genes: list[pd.Series | str], colours: list[str]) -> None:
    """Draw the genes of every expert as bars of one scale, or why there are none."""
    known = [ranked for ranked in genes if isinstance(ranked, pd.Series) and len(ranked)]
    top = 1.05 * max((float(ranked.max()) for ranked in known), default=1.0)
    most = max((len(ranked) for ranked in known), default=1)
    last = None
    for panel, ranked, colour in zip(panels, genes, colours, strict=True):
        if isinstance(ranked, str) or not len(ranked):
            text = ranked if isinstance(ranked, str) else "no gene\nstands out"
            panel.text(0.5, 0.5, text, fontsize=SMALL, color=GREY, ha="center", va="center", transform=panel.transAxes)
            panel.axis("off")
            continue
        panel.barh(np.arange(len(ranked)), ranked.to_numpy(), height=0.7, color=colour)
        panel.set_yticks(np.arange(len(ranked)), [str(name) for name in ranked.index], fontsize=SMALL)
        panel.set(xlim=(min(0.0, float(ranked.min())), top), ylim=(most - 0.5, -0.5))
        panel.tick_params(labelsize=SMALL, width=0.6, length=2)
        panel.tick_params(axis="y", length=0)
        panel.xaxis.set_major_locator(MaxNLocator(3))
        panel.spines[["top", "right"]].set_visible(False)
        last = panel
    if last is not None:
        last.set_xlabel("Δ mean log expression\n(expert − rest)", fontsize=SMALL)
