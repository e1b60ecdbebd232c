"""UMAP of a representation over all samples."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from spade import _keys
from spade._checks import plural, shorten
from spade._samples.collect import check_widths
from spade._samples.features import read_features
from spade._samples.open import Samples, iter_samples
from spade._samples.sample import Sample
from spade._samples.shown.colours import Column, ColumnColours, join_columns, read_column
from spade.core.arrays import Rows
from spade.core.checks import check_choice, check_count, check_not_negative, check_text
from spade.core.rng import as_seed, numpy_stream
from spade.pl._draw.axes import GREY, SMALL, bare, colour_bar, dots_legend, finish, given_axes, new_figure, title
from spade.tl._embedding.umap import METRICS, umap

logger = logging.getLogger("spade")
MIN_ROWS = 10
LABELS = ("domain", "label")
SAMPLE = "sample"
PANEL = 2.8


def embedding(
    samples: Samples,
    *,
    basis: str = _keys.joint(_keys.STEM),
    color: str | Iterable[str] | None = None,
    key: str = _keys.STEM,
    n_neighbors: int = 15,
    min_dist: float = 0.5,
    metric: str = "euclidean",
    rng: int | np.random.Generator = 0,
    table_key: str | None = None,
    ax: Axes | NDArray[Any] | None = None,
    show: bool = False,
) -> Axes | NDArray[Any]:
    """Draw a representation of all samples in two dimensions.

    UMAP is computed from the nearest neighbours over all samples; nothing is written into them. A ``basis`` of width 2
    is drawn as it is.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    basis
        ``obsm`` key, such as one that :func:`spade.tl.embed` or :func:`spade.pp.encode_patches` wrote.
    color
        ``obs`` columns, categories or numbers, ``"expert"`` or ``"sample"``; one panel each. None: those present of
        expert, ``"domain"``, ``"label"`` and, with several samples, the sample.
    key
        Stem of the expert's ``obs`` key.
    n_neighbors
        As in :func:`scanpy.pp.neighbors`.
    min_dist
        As in :func:`scanpy.tl.umap`.
    metric
        Distance between rows by one of scanpy's names, as in :func:`scanpy.pp.neighbors`.
    rng
        Seed of UMAP and of the order in which points are drawn: it is random, so that no group hides another.
    table_key
        Table; may be left out when there is one.
    ax
        Axes to draw into, one per column; None: a new figure.
    show
        Call ``plt.show()``.

    Returns
    -------
    The Axes if ``color`` is one name, else an array of Axes. Rows with NaN are left out; their number is in the title.

    Raises
    ------
    KeyError
        ``basis`` or a column that is not there.
    ValueError
        Fewer than ten rows to draw, bases of different width, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> sp.pl.embedding(samples, basis="X_texture", color="domain").get_title(loc="left")
    'domain'
    """
    check_text("basis", basis)
    check_count("n_neighbors", n_neighbors, 2)
    check_not_negative("min_dist", min_dist)
    check_choice("metric", metric, METRICS)
    seed = as_seed(rng)
    x, columns = _read_samples(samples, basis, _names(color), key, table_key)
    rows = np.flatnonzero(~np.isnan(x).any(1))
    n_out = len(x) - len(rows)
    if len(rows) < MIN_ROWS:
        raise ValueError(
            f"basis={basis!r} has {len(rows)} rows without NaN of {len(x)}; at least {MIN_ROWS} are needed."
        )
    if n_out:
        logger.info("%d of %d rows have NaN in obsm[%r] and are not drawn", n_out, len(x), basis)
    axes = _panels(ax, len(columns))
    flat = x.shape[1] == 2
    xy = x[rows] if flat else umap(x[rows], n_neighbors=n_neighbors, min_dist=min_dist, metric=metric, seed=seed)
    order = numpy_stream(seed, "order of points").permutation(len(rows))
    for panel, column in zip(axes, columns, strict=True):
        _draw(panel, xy[order], column, rows[order], n_out)
        label = basis if flat else "UMAP"
        panel.set_xlabel(f"{label} 1", fontsize=SMALL)
        panel.set_ylabel(f"{label} 2", fontsize=SMALL)
    finish(show=show)
    return axes[0] if isinstance(color, str) else axes


def _names(color: object) -> list[str] | None:
    """Return the columns asked for, None if they are to be chosen."""
    if color is None:
        return None
    names = [color] if isinstance(color, str) or not isinstance(color, Iterable) else list(color)
    if not names:
        raise ValueError("color: got an empty list; name obs columns, or leave color= out.")
    return [check_text("color", name) for name in names]


def _read_samples(
    samples: Samples, basis: str, names: list[str] | None, key: str, table_key: str | None
) -> tuple[NDArray[np.float32], list[Column]]:
    """Return the representation and the columns of all rows of all samples."""
    blocks: list[NDArray[np.float32]] = []
    widths: dict[str, int] = {}
    parts: list[dict[str, ColumnColours]] = []
    for sample in iter_samples(samples, table_key=table_key):
        blocks.append(_basis(sample, basis))
        widths[sample.name] = blocks[-1].shape[1]
        parts.append({name: _read(sample, name, key) for name in names or _usual(sample, key)})
    check_widths(widths, f"basis={basis!r}")
    if names is None:
        names = [name for name in parts[0] if all(name in part for part in parts)]
        names = [name for name in names if name != SAMPLE or len(parts) > 1 or len(names) == 1]
    columns = [
        join_columns(name, [part[name] for part in parts], experts=name in ("expert", _keys.expert(key)))
        for name in names
    ]
    return np.concatenate(blocks), columns


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
    expert = ["expert"] if _keys.expert(key) in obs or _keys.cluster(key) in obs else []
    return [*expert, *(name for name in LABELS if name in obs), SAMPLE]


def _read(sample: Sample, name: str, key: str) -> ColumnColours:
    """Return an ``obs`` column, or the expert or the sample unless a column has that name."""
    if name in sample.table.obs or name not in ("expert", SAMPLE):
        return read_column(sample, name, key)
    if name == "expert":
        return read_column(sample, None, key)
    return pd.Series(pd.Categorical([sample.name] * sample.table.n_obs), index=sample.table.obs_names), {}


def _panels(ax: Any, n: int) -> NDArray[Any]:
    if ax is not None:
        return given_axes(ax, (n,), f"{plural(n, 'column')} to colour by")
    figure = new_figure((PANEL + 1.1) * n, PANEL + 0.4)
    return figure.subplots(1, n, squeeze=False)[0]


def _draw(ax: Axes, xy: NDArray[np.float32], column: Column, rows: Rows, n_out: int) -> None:
    size = float(np.clip(6_000 / len(rows), 1, 25))
    title(ax, f"{column.name} ({plural(n_out, 'row')} with NaN not shown)" if n_out else column.name)
    many = len(rows) > 3_000
    if column.colours is None:
        values = np.ma.masked_invalid(column.values[rows])
        points = ax.scatter(
            xy[:, 0], xy[:, 1], c=values, s=size, cmap="viridis", linewidths=0, rasterized=many, plotnonfinite=False
        )
        colour_bar(ax, points, column.name)
    else:
        faces = np.array(column.faces(rows), dtype=object)
        faces[faces == "none"] = "#d0d0d0"
        ax.scatter(xy[:, 0], xy[:, 1], c=faces.tolist(), s=size, linewidths=0, rasterized=many)
        entries = [(label, "#d0d0d0" if c == "none" else c) for label, c in column.legend(rows)]
        dots_legend(ax, entries, f"{column.name} (spots)")
    ax.set_box_aspect(1)
    ax.margins(0.04)
    bare(ax)
    ax.spines[["top", "right"]].set_visible(False)
    ax.xaxis.label.set_color(GREY)
    ax.yaxis.label.set_color(GREY)
