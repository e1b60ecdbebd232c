"""Measured and predicted expression in tissue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from spade import _keys
from spade._checks import shorten
from spade._samples.counts import read_counts
from spade._samples.open import Samples, iter_samples
from spade._samples.predicted import read_predicted
from spade._samples.sample import Sample
from spade.core.expression.correlation import pearson_per_gene
from spade.core.expression.normalise import log_normalise
from spade.models import GenePanel
from spade.pl._draw.axes import colour_bar, finish, given_axes, new_figure, title
from spade.pl._draw.tissue import Floats, View, common_frames, draw_spots, draw_tissue, views

FADE = 0.35
PANEL = 2.7
CMAP = "viridis"


def expression(
    samples: Samples,
    genes: str | Sequence[str],
    *,
    key: str = _keys.PREDICTED,
    deviation: bool = False,
    layer: str | None = None,
    normalized: bool = False,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    ax: Axes | NDArray[Any] | None = None,
    show: bool = False,
) -> NDArray[Any]:
    """Draw measured beside predicted expression in tissue.

    One row per section and gene, all to one scale: the spots at their true size on the faded image, left coloured by the log-normalised
    expression that was measured, right by what :func:`spade.tl.predict_expression` predicted, with their correlation over spots. Each panel has
    a colour scale of its own, from the 2nd to the 98th percentile, as predictions are means and vary less (that of deviations begins at 0). Without a measurement the
    left panel is left out, if no section has one, or stays without spots.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these.
    genes
        One gene or several, among those predicted.
    key
        Stem of the keys that :func:`spade.tl.predict_expression` wrote.
    deviation
        Whether to draw a third panel, the deviation of the prediction.
    layer, normalized
        Where the measured expression is: raw counts in ``X`` or a layer, or with ``normalized=True`` values as they are.
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
    Array of Axes, ``(n_sections × n_genes, n_panels)``, in µm from the upper left corner of the image. Spots without a value are not
    coloured.

    Raises
    ------
    KeyError
        No such prediction, genes that were not predicted, no patches.
    ValueError
        No genes, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(3, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> genes = sp.pp.select_genes(samples[:2], n_top_genes=20)
    >>> sp.tl.predict_expression(samples[2], reference=samples[:2], method="ridge", use_rep="X_texture", genes=genes)
    >>> sp.pl.expression(samples[2], genes.names[:2]).shape
    (2, 2)
    """
    wanted = [genes] if isinstance(genes, str) else list(map(str, genes))
    if not wanted:
        raise ValueError("genes is empty; name genes that were predicted.")
    drawn = [
        (view, found)
        for sample in iter_samples(samples, table_key=table_key)
        for found in [_read(sample, wanted, key, deviation, layer, normalized)]
        for view in views(sample, patches_key)
    ]
    frames = common_frames([view.frame() for view, _ in drawn])
    measured = any(found.measured is not None for _, found in drawn)
    names = ["measured"] * measured + ["predicted"] + ["deviation"] * deviation
    axes = _panels(ax, len(drawn) * len(wanted), names, frames[0])
    for i, ((view, found), box) in enumerate(zip(drawn, frames, strict=True)):
        for j, gene in enumerate(wanted):
            _draw_row(axes[i * len(wanted) + j], names, view, box, found, gene, j)
    finish(show)
    return axes


@dataclass(frozen=True)
class _Values:
    """``(n_obs, genes)`` each; what is not known is None, or NaN for a gene or spot."""

    measured: Floats | None
    predicted: Floats
    deviation: Floats | None

    def of(self, name: str) -> Floats | None:
        return {"measured": self.measured, "predicted": self.predicted, "deviation": self.deviation}[name]


def _read(sample: Sample, genes: list[str], key: str, deviation: bool, layer: str | None, normalized: bool) -> _Values:
    frame = read_predicted(sample, key)
    if missing := [gene for gene in genes if gene not in frame]:
        raise KeyError(
            f"{sample.name}: genes: {shorten(missing)} were not predicted; there are {shorten(frame.columns)}. Genes are matched exactly."
        )
    spread = read_predicted(sample, key, deviation=True)[genes].to_numpy(float) if deviation else None
    measured = None
    fold_case = bool(_keys.read_provenance(sample.table.uns, _keys.predicted(key)).get("fold_case", False))
    panel = GenePanel(tuple(frame.columns), fold_case=fold_case)
    columns = panel.columns(sample.table.var_names)[frame.columns.get_indexer(genes)]
    if (columns >= 0).any():
        counts = read_counts(sample, layer, normalized)
        filled = np.asarray(abs(counts).sum(1)).ravel() > 0
        measured = np.full((sample.table.n_obs, len(genes)), np.nan)
        values = (counts if normalized else log_normalise(counts))[:, columns[columns >= 0]].toarray()
        measured[:, columns >= 0] = values
        measured[~filled] = np.nan
    return _Values(measured, frame[genes].to_numpy(float), spread)


def _panels(ax: Any, n_rows: int, names: list[str], frame: Floats) -> NDArray[Any]:
    if ax is not None:
        return given_axes(ax, (n_rows, len(names)), f"{n_rows} sections and genes × ({', '.join(names)})")
    aspect = (frame[3] - frame[1]) / (frame[2] - frame[0])
    figure = new_figure((PANEL + 0.8) * len(names), (PANEL * aspect + 0.5) * n_rows)
    return figure.subplots(n_rows, len(names), squeeze=False)


def _draw_row(
    axes: NDArray[Any], names: list[str], view: View, box: Floats, found: _Values, gene: str, column: int
) -> None:
    """Draw one gene in one section."""
    for ax, name in zip(axes, names, strict=True):
        draw_tissue(ax, view, box, FADE)
        whole = found.of(name)
        values = np.full(len(view.rows), np.nan) if whole is None else whole[view.rows, column]
        known = values[np.isfinite(values)]
        head = f"{view.name}: {gene}, measured" if name == "measured" else f"{gene}, {name}"
        if not len(known):
            title(ax, f"{head}: none")
            continue
        spots = draw_spots(ax, view, cmap=CMAP if name != "deviation" else "magma_r", linewidth=0)
        low, high = np.percentile(known, [2, 98]) if name != "deviation" else (0.0, float(known.max()))
        spots.set_norm(Normalize(low, max(high, low + 1e-6)))
        spots.set_array(np.ma.masked_invalid(values))
        colour_bar(ax, spots, "log expression" if name != "deviation" else "deviation")
        title(ax, head + (_agreement(found, view, column) if name == "predicted" else ""))


def _agreement(found: _Values, view: View, column: int) -> str:
    """Correlation over the spots of a section that have both."""
    if found.measured is None:
        return ""
    truth, predicted = found.measured[view.rows, column], found.predicted[view.rows, column]
    both = np.isfinite(truth) & np.isfinite(predicted)
    value = pearson_per_gene(truth[both][:, None], predicted[both][:, None])[0]
    return f", r = {value:.2f}" if np.isfinite(value) else ", no variance"
