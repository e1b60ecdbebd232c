"""What each expert looks at: its most typical patches, and the genes that stand out there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from spade import _keys
from spade._checks import shorten
from spade._samples.counts import log_expression
from spade._samples.experts import expert_weights
from spade._samples.open import Samples, iter_samples
from spade.core.checks import check_count
from spade.pl._draw.axes import GREY, SMALL, TEXT, bare, clip, finish, given_axes, new_figure
from spade.pl._draw.colours import join_columns, read_column
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
    ax: NDArray[Any] | None = None,
    show: bool = False,
) -> NDArray[Any]:
    """Show the most typical patches of each expert and the genes that stand out in its spots.

    Typical are the patches with the largest routing weight, taken in turn from every section where the expert has
    spots. Genes, of those that all samples with expression have in common, are chosen by a t-test of the expert's spots against all
    others and drawn with their difference in mean log-normalised expression.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these; expression is not needed.
    key
        Stem of the keys that :func:`spade.tl.embed` wrote.
    n_patches, n_genes
        Patches and genes per expert.
    experts
        Experts to show; None: all that are the largest weight of some spot.
    layer
        Layer with raw counts; None: ``X``.
    normalized
        Take the values as they are, as log-normalised expression.
    patches_key
        What :func:`spade.pp.patches` wrote.
    table_key
        Table; may be left out when there is one.
    ax
        As many Axes as there are panels, row by row; None: a new figure.
    show
        Call ``plt.show()``.

    Returns
    -------
    Array of Axes, ``(n_experts, n_patches + 1)``: patches, then genes; panels without a patch are invisible. The
    section and the routing weight stand below a patch.

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
    drawn: list[View] = []
    weights, found, tables, labels = [], [], [], []
    for sample in iter_samples(samples, table_key=table_key):
        of_sample = expert_weights(sample, key)
        series, colours = read_column(sample, None, key)
        found.append((series, colours))
        for view in views(sample, patches_key):
            drawn.append(view)
            weights.append(of_sample[view.rows])
        if sample.has_expression:
            tables.append(log_expression(sample, layer, normalized))
            of_row = np.where(series.isna(), "", series.astype(str)).astype(object)
            labels.append(of_row[tables[-1].obs_names.astype(int)])
    column = join_columns("expert", found, experts=True)
    sizes = {name: int((column.values == name).sum()) for name in column.colours or ()}
    names = _choose(experts, sizes)
    axes = _panels(ax, len(names), n_patches)
    genes = top_genes(tables, labels, names, n_genes)
    chosen = {name: _typical(weights, int(name), n_patches) for name in names}
    _draw_patches(axes, names, chosen, drawn, weights, column.colours or {})
    for i, name in enumerate(names):
        axes[i, 0].set_ylabel(
            f"expert {name}\n{sizes[name]:,} spots", fontsize=TEXT, rotation=0, ha="right", va="center", labelpad=6
        )
    _draw_genes(axes[:, -1], [genes[name] for name in names], [(column.colours or {})[name] for name in names])
    finish(show)
    return axes


def _choose(experts: Iterable[str | int] | None, sizes: dict[str, int]) -> list[str]:
    there = [name for name, n in sizes.items() if n]
    if experts is None:
        if not there:
            raise ValueError("experts=None: no spot has an expert, as no patch is valid. Check sp.pl.patches(samples).")
        return there
    wanted = [str(name) for name in ([experts] if isinstance(experts, (str, int)) else experts)]
    if not wanted or set(wanted) - set(there):
        raise ValueError(
            f"experts: {shorten([name for name in wanted if name not in there]) or 'an empty list'}: no spot has it as its "
            f"largest weight; experts with spots: {shorten(there, 20)}."
        )
    return wanted


def _typical(weights: list[NDArray[np.float32]], expert: int, n: int) -> list[tuple[int, int]]:
    """Choose (section, position) of the patches with the largest weight, in turn from each section, best first."""
    candidates = []
    for section, of_section in enumerate(weights):
        own = np.flatnonzero(np.argmax(np.nan_to_num(of_section, nan=-1), axis=1) == expert)
        own = own[~np.isnan(of_section[own, expert])]
        own = own[np.argsort(-of_section[own, expert], kind="stable")][:n]
        candidates += [(turn, -float(of_section[i, expert]), section, int(i)) for turn, i in enumerate(own)]
    best = sorted(candidates)[:n]
    return [(section, i) for _, _, section, i in sorted(best, key=lambda one: one[1:])]


def _panels(ax: Any, n_rows: int, n_patches: int) -> NDArray[Any]:
    shape = (n_rows, n_patches + 1)
    if ax is not None:
        return given_axes(ax, shape, f"{n_rows} experts × ({n_patches} patches + 1 for genes)")
    figure = new_figure(UNIT * (n_patches + 1.5) + 1.6, (UNIT + 0.42) * n_rows + 0.4)
    return figure.subplots(*shape, squeeze=False, width_ratios=[*[1] * n_patches, 1.5])


def _draw_patches(
    axes: NDArray[Any],
    names: list[str],
    chosen: dict[str, list[tuple[int, int]]],
    drawn: list[View],
    weights: list[NDArray[np.float32]],
    colours: dict[str, str],
) -> None:
    """Read section by section, so that each is opened once, and draw."""
    places = [(i, j, *place) for i, name in enumerate(names) for j, place in enumerate(chosen[name])]
    for panel in axes[:, :-1].ravel():
        panel.set_visible(False)
    for section, view in enumerate(drawn):
        here = [(i, j, position) for i, j, of, position in places if of == section]
        pixels = view.patches(np.array([position for _, _, position in here], dtype=np.int64))
        for (i, j, position), patch in zip(here, pixels, strict=True):
            panel = axes[i, j]
            panel.set_visible(True)
            panel.imshow(patch, extent=(0, view.side, view.side, 0), interpolation="antialiased")
            bare(panel)
            panel.spines[:].set(color=colours[names[i]], linewidth=2)
            weight = weights[section][position, int(names[i])]
            panel.set_xlabel(f"{clip(view.name)}\nw = {weight:.2f}", fontsize=SMALL, labelpad=2)
    first = axes[0, 0]
    if first.get_visible():
        first.set_xlim(0, drawn[0].side)
        scale_bar(first, small=True, above=True)


def _draw_genes(panels: NDArray[Any], genes: list[pd.Series | str], colours: list[str]) -> None:
    """Draw bars to one scale."""
    known = [one for one in genes if isinstance(one, pd.Series) and len(one)]
    top = 1.05 * max((float(one.max()) for one in known), default=1.0)
    most = max((len(one) for one in known), default=1)
    last = None
    for panel, found, colour in zip(panels, genes, colours, strict=True):
        if isinstance(found, str) or not len(found):
            text = found if isinstance(found, str) else "no gene\nstands out"
            panel.text(0.5, 0.5, text, fontsize=SMALL, color=GREY, ha="center", va="center", transform=panel.transAxes)
            panel.axis("off")
            continue
        panel.barh(np.arange(len(found)), found.to_numpy(), height=0.7, color=colour)
        panel.set_yticks(np.arange(len(found)), [str(name) for name in found.index], fontsize=SMALL)
        panel.set(xlim=(min(0.0, float(found.min())), top), ylim=(most - 0.5, -0.5))
        panel.tick_params(labelsize=SMALL, width=0.6, length=2)
        panel.tick_params(axis="y", length=0)
        panel.xaxis.set_major_locator(MaxNLocator(3))
        panel.spines[["top", "right"]].set_visible(False)
        last = panel
    if last is not None:
        last.set_xlabel("Δ mean log expression\n(expert − rest)", fontsize=SMALL)
