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
from spade._checks import shorten
from spade._samples.features import read_features
from spade._samples.open import Samples, iter_samples
from spade._samples.sample import Sample
from spade.core.checks import check_count
from spade.core.rng import as_seed, numpy_stream
from spade.pl._draw.axes import GREY, SMALL, bare, colour_bar, dots_legend, finish, given_axes, new_figure, title
from spade.pl._draw.colours import Column, ColumnColours, join_columns, read_column

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

    UMAP on the nearest neighbours over all samples together; nothing is written into them. A ``basis`` of width 2 is
    drawn as it is.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these.
    basis
        ``obsm`` key, such as what :func:`spade.tl.embed` or :func:`spade.pp.encode_patches` wrote.
    color
        ``obs`` columns, categories or numbers, ``"expert"`` or ``"sample"``; one panel each. None: the expert, then
        ``"domain"`` or ``"label"`` and the sample, as far as there are any.
    key
        Stem of the expert's ``obs`` key.
    n_neighbors, min_dist, metric
        Of :func:`scanpy.pp.neighbors` and :func:`scanpy.tl.umap`.
    rng
        Seed of UMAP and of the order in which points are drawn, which is random so that no group hides another.
    table_key
        Table; may be left out when there is one.
    ax
        Axes to draw into, as many as columns; None: a new figure.
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
    check_count("n_neighbors", n_neighbors, 2)
    seed = as_seed(rng)
    names = None if color is None else [color] if isinstance(color, str) else list(color)
    if names is not None and not names:
        raise ValueError("color: got an empty list; name obs columns, or leave color= out.")
    blocks: list[NDArray[np.float32]] = []
    found: list[dict[str, ColumnColours]] = []
    for sample in iter_samples(samples, table_key=table_key):
        blocks.append(_basis(sample, basis))
        found.append({name: _read(sample, name, key) for name in names or _usual(sample, key)})
    widths = sorted({block.shape[1] for block in blocks})
    if len(widths) > 1:
        raise ValueError(
            f"basis={basis!r} differs in width between samples: {widths}. Embed all of them with one model."
        )
    if names is None:
        names = [name for name in found[0] if all(name in one for one in found)]
        names = [name for name in names if name != SAMPLE or len(found) > 1 or len(names) == 1]
    columns = [
        join_columns(name, [one[name] for one in found], name in ("expert", _keys.expert(key))) for name in names
    ]
    x = np.concatenate(blocks)
    kept = np.flatnonzero(~np.isnan(x).any(1))
    if len(kept) < MIN_ROWS:
        raise ValueError(
            f"basis={basis!r} has {len(kept)} rows without NaN of {len(x)}; at least {MIN_ROWS} are needed."
        )
    if len(kept) < len(x):
        logger.info("%d of %d rows have NaN in obsm[%r] and are not drawn", len(x) - len(kept), len(x), basis)
    axes = _panels(ax, len(names))
    xy = x[kept] if widths[0] == 2 else _umap(x[kept], n_neighbors, min_dist, metric, seed)
    order = numpy_stream(seed, "order of points").permutation(len(kept))
    for panel, column in zip(axes, columns, strict=True):
        _draw(panel, xy[order], column, kept[order], len(x) - len(kept))
        label = basis if widths[0] == 2 else "UMAP"
        panel.set_xlabel(f"{label} 1", fontsize=SMALL)
        panel.set_ylabel(f"{label} 2", fontsize=SMALL)
    finish(show)
    return axes[0] if isinstance(color, str) else axes


def _basis(sample: Sample, basis: str) -> NDArray[np.float32]:
    if basis not in sample.table.obsm:
        raise KeyError(
            f"{sample.name}: basis={basis!r} is not in obsm; there is {shorten(sample.table.obsm, 10) or 'nothing'}. Joint "
            "embeddings are made by sp.tl.embed(samples, model), image features by sp.pp.encode_patches(samples)."
        )
    return read_features(sample, basis)


def _usual(sample: Sample, key: str) -> list[str]:
    """Name what is drawn when no column is named, as far as it is there."""
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


def _umap(x: NDArray[np.float32], n_neighbors: int, min_dist: float, metric: str, seed: int) -> NDArray[np.float32]:
    import anndata as ad
    import scanpy as sc

    scratch = ad.AnnData(obs=pd.DataFrame(index=[str(i) for i in range(len(x))]), obsm={"x": x})
    state = seed % 2**32
    sc.pp.neighbors(scratch, n_neighbors=min(n_neighbors, len(x) - 1), use_rep="x", metric=metric, random_state=state)
    sc.tl.umap(scratch, min_dist=min_dist, random_state=state)
    return np.asarray(scratch.obsm["X_umap"])


def _panels(ax: Any, n: int) -> NDArray[Any]:
    if ax is not None:
        return given_axes(ax, (n,), f"{n} columns to colour by")
    figure = new_figure((PANEL + 1.1) * n, PANEL + 0.4)
    return figure.subplots(1, n, squeeze=False)[0]


def _draw(ax: Axes, xy: NDArray[np.float32], column: Column, rows: NDArray[np.int64], n_out: int) -> None:
    size = float(np.clip(6_000 / len(rows), 1, 25))
    title(ax, f"{column.name} ({n_out:,} rows with NaN not shown)" if n_out else column.name)
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
