"""UMAP of a representation over all samples, or of two, with the same spots linked."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from numpy.typing import NDArray

from spade import _keys
from spade._checks import check_idle, plural, shorten
from spade._samples.collect import Stack, check_widths
from spade._samples.features import read_features
from spade._samples.open import Samples, iter_samples
from spade._samples.sample import Sample, check_names
from spade._samples.shown.colours import Column, ColumnColours, join_color, join_columns, read_colors, read_column
from spade.core.arrays import Rows
from spade.core.checks import check_count, check_names_given, check_positive, check_text
from spade.core.files import digest
from spade.core.rng import as_seed, numpy_stream
from spade.pl._draw.axes import GREY, NARROW, SMALL, bare, colour_bar, dots_legend, finish, is_narrow, panel_grid, title
from spade.pl._draw.colouring import NO_VALUE, Coloured, Colouring
from spade.tl._embedding.umap import MIN_ROWS, UmapSettings, stored_umap

logger = logging.getLogger("spade")
LABELS = ("domain", "label")
EXPERT, SAMPLE = "expert", "sample"
PANEL = 2.8
#: Spots that are linked between two representations.
N_LINKS = 50


def embedding(
    samples: Samples,
    *,
    basis: str | Sequence[str] = _keys.joint(_keys.STEM),
    color: str | Sequence[str] | None = None,
    key: str = _keys.STEM,
    n_links: int | None = None,
    n_neighbors: int = 15,
    min_dist: float = 0.5,
    metric: str = "euclidean",
    rng: int | np.random.Generator = 0,
    layer: str | None = None,
    normalized: bool = False,
    palette: str | Sequence[str] | Mapping[str, str] | None = None,
    groups: str | Sequence[str] | None = None,
    cmap: str | Colormap | None = None,
    vmin: float | str | None = None,
    vmax: float | str | None = None,
    size: float | None = None,
    table_key: str | None = None,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> Axes | NDArray[Any] | Figure:
    """Draw a representation of all samples in two dimensions, or two beside each other.

    UMAP is computed from the nearest neighbours over all samples. What :func:`spade.tl.umap` wrote of the same rows
    with the same settings is taken instead; nothing is written here. A ``basis`` of width 2 is drawn as it is.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    basis
        ``obsm`` key, such as one that :func:`spade.tl.embed` or :func:`spade.pp.encode_patches` wrote. Two keys, such
        as ``("X_spade_image", "X_spade_expression")``, are drawn side by side, with thin lines between the two places
        of some spots; the UMAP of the second is turned so that these are short.
    color
        ``obs`` columns, categories or numbers; genes; columns of ``obsm`` as ``"key:column"``; ``"expert"`` or
        ``"sample"``; one panel each. None: those present of expert, ``"domain"``, ``"label"`` and, with several
        samples, the sample.
    key
        Stem of the expert's ``obs`` key.
    n_links
        Spots, drawn at random, that lines link between two representations; 0: no lines. None: 50.
    n_neighbors
        As in :func:`scanpy.pp.neighbors`.
    min_dist
        As in :func:`scanpy.tl.umap`.
    metric
        Distance between rows by one of scanpy's names, as in :func:`scanpy.pp.neighbors`.
    rng
        Seed of UMAP and of the order in which points are drawn: it is random, so that no group hides another.
    layer, normalized
        Where the expression of a gene is, as in :func:`spatial`.
    palette, groups, cmap, vmin, vmax
        Colours, as in :func:`spatial`; points in no group are grey.
    size
        Area of a point in square points. None: the more points, the smaller.
    table_key
        Table; may be left out when there is one.
    ncols
        Panels beside each other. None: all in one row, or one row per column with two representations.
    figsize
        Width and height of the figure in inches.
    ax
        Axes to draw into, one per panel; None: a new figure.
    show
        Call ``plt.show()``.
    return_fig
        Return the figure instead of the Axes.

    Returns
    -------
    The Axes if ``color`` is one name, else an array of Axes; with two representations always an array,
    ``(n_colors, 2)``. Rows with NaN are left out; their number is in the title.

    Raises
    ------
    KeyError
        ``basis``, or a colour or group, that is not there.
    ValueError
        Fewer than ten rows to draw, bases of different width, settings without effect, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> sp.pl.embedding(samples, basis="X_texture", color="domain").get_title(loc="left")
    'domain'
    """
    bases = _bases(basis, n_links)
    settings = UmapSettings(n_neighbors, min_dist, metric, seed := as_seed(rng))
    colouring = Colouring(palette, groups, cmap, vmin, vmax)
    if size is not None:
        check_positive("size", size)
    names = None if color is None else [check_text("color", name) for name in check_names_given("color", color)]
    read = _Reader(bases, settings, key, names)
    for sample in iter_samples(samples, table_key=table_key):
        read.add(sample, layer, normalized=normalized)
    flat = read.coordinates()
    if "UMAP" not in read.labels.values():
        idle = [("n_neighbors", n_neighbors, 15), ("min_dist", min_dist, 0.5), ("metric", metric, "euclidean")]
        check_idle(idle, f"basis={basis!r} has two columns, which are drawn as they are, without UMAP")
    if read.labels[bases[-1]] == "UMAP" and len(bases) == 2:
        flat[1] = _turned(flat[1], flat[0])
    rows = np.flatnonzero(np.isfinite(flat).all((0, 2)))
    n_out = flat.shape[1] - len(rows)
    if len(rows) < MIN_ROWS:
        raise ValueError(
            f"basis={basis!r} has {plural(len(rows), 'row')} without NaN of {flat.shape[1]}; at least {MIN_ROWS} are "
            "needed."
        )
    if n_out:
        logger.info(
            "%d of %d rows have NaN in %s and are not drawn",
            n_out, flat.shape[1], ", ".join(f"obsm[{name!r}]" for name in bases),
        )  # fmt: skip
    shown = colouring.of(read.columns())
    order = numpy_stream(seed, "order of points").permutation(rows)
    axes = _panels(ax, len(shown), len(bases), ncols, figsize)
    for row, one in zip(axes, shown, strict=True):
        for i, (panel, name, xy) in enumerate(zip(row, bases, flat, strict=True)):
            head = one.column.name if len(bases) == 1 else f"{one.column.name}: {name}"
            title(panel, f"{head} ({plural(n_out, 'row')} with NaN not shown)" if n_out and not i else head)
            _draw(panel, xy[order], one, order, size, explained=i == len(bases) - 1)
            _label(panel, read.labels[name])
        if len(bases) == 2:
            links = numpy_stream(seed, "links").permutation(rows)[: N_LINKS if n_links is None else n_links]
            _link(row, flat[:, links])
    if len(bases) == 1:
        axes = axes[:, 0]
    return finish(axes[0] if len(bases) == 1 and isinstance(color, str) else axes, show=show, return_fig=return_fig)


def _bases(basis: object, n_links: object) -> list[str]:
    """Return one or two representations, and check that two were given if spots are to be linked."""
    given = basis if isinstance(basis, Sequence) and not isinstance(basis, str) else [basis]
    bases = [check_text("basis", name) for name in given]
    if len(bases) not in (1, 2) or len(set(bases)) < len(bases):
        raise ValueError(f"basis={basis!r}: expected one key of obsm, or two different ones.")
    if len(bases) == 1:
        check_idle([("n_links", n_links, None)], "one basis has nothing to link")
    elif n_links is not None:
        check_count("n_links", n_links, 0)
    return bases


class _Reader:
    """Representations and columns of all rows of all samples, read sample by sample."""

    def __init__(self, bases: list[str], settings: UmapSettings, key: str, names: list[str] | None) -> None:
        self.bases, self.settings, self.key, self.names = bases, settings, key, names
        self.labels = dict.fromkeys(bases, "UMAP")
        self._rows = {name: Stack() for name in bases}
        self._widths: dict[str, dict[str, int]] = {name: {} for name in bases}
        self._stored: dict[str, list[tuple[NDArray[np.float32], str] | None]] = {name: [] for name in bases}
        self._columns: list[dict[str, ColumnColours]] = []
        self._samples: list[str] = []

    def add(self, sample: Sample, layer: str | None, *, normalized: bool) -> None:
        """Read one sample."""
        for name in self.bases:
            features = _basis(sample, name)
            self._widths[name][sample.name] = features.shape[1]
            check_widths(self._widths[name], f"basis={name!r}")
            self._rows[name].add(features)
            self._stored[name].append(stored_umap(sample, name, self.settings))
        self._samples.append(sample.name)
        check_names(self._samples)
        names = self.names or _usual(sample, self.key)
        self._columns.append(_read(sample, names, self.key, layer, normalized=normalized))

    def coordinates(self) -> NDArray[np.float32]:
        """Return the place of every row in every representation, ``(n_bases, n, 2)``."""
        return np.stack([self._place(name) for name in self.bases])

    def _place(self, name: str) -> NDArray[np.float32]:
        """Return a representation of width 2, the UMAP that is stored of just these rows, or a new one."""
        x = self._rows[name].joined()
        if x.shape[1] == 2:
            self.labels[name] = name
            return x
        known = [one for one in self._stored[name] if one is not None]
        if len(known) == len(self._stored[name]) and {of for _, of in known} == {digest(x)}:
            return np.concatenate([xy for xy, _ in known])
        return self.settings.coordinates(x, f"basis={name!r}")

    def columns(self) -> list[Column]:
        """Return the columns to colour by."""
        names = self.names
        if names is None:
            names = [name for name in self._columns[0] if all(name in part for part in self._columns)]
            names = [name for name in names if name != SAMPLE or len(self._columns) > 1 or len(names) == 1]
        return [
            join_columns(name, parts, experts=True)
            if name in (EXPERT, _keys.expert(self.key))
            else join_color(name, parts)
            for name, parts in ((name, [part[name] for part in self._columns]) for name in names)
        ]


def _basis(sample: Sample, basis: str) -> NDArray[np.float32]:
    if basis not in sample.table.obsm:
        raise KeyError(
            f"{sample.name}: basis={basis!r} is not in obsm; keys: {shorten(sample.table.obsm, 10) or 'none'}. "
            "sp.tl.embed(samples, model) makes joint embeddings, sp.pp.encode_patches(samples) image features."
        )
    return read_features(sample, basis)


def _usual(sample: Sample, key: str) -> list[str]:
    """Return the columns to draw if none is named, as far as they are present."""
    obs = sample.table.obs
    expert = [EXPERT] if _keys.expert(key) in obs or _keys.cluster(key) in obs else []
    return [*expert, *(name for name in LABELS if name in obs), SAMPLE]


def _read(
    sample: Sample, names: list[str], key: str, layer: str | None, *, normalized: bool
) -> dict[str, ColumnColours]:
    """Return what names colours; ``"expert"`` and ``"sample"`` are columns of ``obs`` if there are such."""
    plain = [name for name in names if name in sample.table.obs or name not in (EXPERT, SAMPLE)]
    if not plain:
        check_idle([("layer", layer, None), ("normalized", normalized, False)], f"color={names} names no gene")
    read = dict(zip(plain, read_colors(sample, plain, layer, normalized=normalized) if plain else [], strict=True))
    own = pd.Series(pd.Categorical([sample.name] * sample.table.n_obs), index=sample.table.obs_names), dict[str, str]()
    return {
        name: read[name] if name in read else read_column(sample, None, key) if name == EXPERT else own
        for name in names
    }


def _panels(ax: Any, n_columns: int, n_bases: int, ncols: object, figsize: object) -> NDArray[Any]:
    """Return an array of Axes ``(n_columns, n_bases)``; a single representation has all its panels in one row."""
    what = f"{plural(n_columns, 'column')} to colour by" + (f" × {n_bases} representations" if n_bases > 1 else "")
    if ax is None and ncols is None and n_bases == 1:
        ncols = n_columns
    size = PANEL + 1.1, PANEL + 0.4
    return panel_grid((n_columns, n_bases), size, what, ax=ax, ncols=ncols, figsize=figsize, least=NARROW)


def _draw(
    ax: Axes, xy: NDArray[np.float32], shown: Coloured, rows: Rows, size: float | None, *, explained: bool
) -> None:
    """Draw points, with a legend or a bar if the colours are ``explained`` here."""
    column = shown.column
    area = float(np.clip(6_000 / len(rows), 1, 25)) if size is None else size
    style: dict[str, Any] = {"s": area, "linewidths": 0, "rasterized": len(rows) > 3_000}
    if shown.scale is not None:
        cmap, norm = shown.scale
        values = np.ma.masked_invalid(column.values[rows])
        points = ax.scatter(xy[:, 0], xy[:, 1], c=values, cmap=cmap, norm=norm, plotnonfinite=False, **style)
        if explained:
            colour_bar(ax, points, column.name)
    else:
        faces = [NO_VALUE if face == "none" else face for face in column.faces(rows)]
        ax.scatter(xy[:, 0], xy[:, 1], c=faces, **style)
        if explained:
            entries = column.legend(rows, shown.missing)
            entries = [(label, NO_VALUE if colour == "none" else colour) for label, colour in entries]
            dots_legend(ax, entries, f"{column.name} (spots)", below=is_narrow(ax))
    if is_narrow(ax):
        ax.set_anchor("N")
    ax.set_box_aspect(1)
    ax.margins(0.04)


def _label(ax: Axes, label: str) -> None:
    """Name the axes, which have no ticks."""
    bare(ax)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel(f"{label} 1", fontsize=SMALL, color=GREY)
    ax.set_ylabel(f"{label} 2", fontsize=SMALL, color=GREY)


def _turned(xy: NDArray[np.float32], towards: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return places turned, and mirrored if need be, so that they resemble others of the same spots ``(n, 2)``.

    UMAP says nothing about directions, so this changes none of what it shows.
    """
    both = np.isfinite(xy).all(1) & np.isfinite(towards).all(1)
    centre = xy[both].mean(0)
    u, _, v = np.linalg.svd((xy[both] - centre).T @ (towards[both] - towards[both].mean(0)))
    return (xy - centre) @ (u @ v)


def _link(axes: NDArray[Any], places: NDArray[np.float32]) -> None:
    """Draw a line between the two places ``(2, n, 2)`` of every spot."""
    left, right = axes
    right.set_ylabel("")
    for start, end in zip(*places, strict=True):
        line = ConnectionPatch(
            start, end, "data", "data", axesA=left, axesB=right, color=GREY, linewidth=0.5, alpha=0.5, gid="link"
        )
        line.set_in_layout(False)
        right.add_artist(line)
