"""Measured and predicted expression in tissue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from spade import _keys
from spade._checks import plural, shorten
from spade._samples.open import Samples, iter_samples
from spade._samples.predicted import read_measured, read_predicted
from spade._samples.sample import Sample
from spade.core.arrays import Floats, Rows
from spade.core.checks import check_flag, check_text
from spade.core.expression.correlation import pearson_per_gene
from spade.pl._draw.axes import colour_bar, finish, given_axes, new_figure, title
from spade.pl._draw.tissue import View, common_frames, draw_spots, draw_tissue, views

FADE = 0.35
PANEL = 2.7
CMAP = "viridis"
UNIT = "log expression"


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

    One row per section and gene, all to one scale: the spots at their true size on the faded image, left coloured by
    the measured log-normalised expression, right by what :func:`spade.tl.predict_expression` predicted, with their
    correlation over spots. Each panel has its own colour scale, from the 2nd to the 98th percentile, because
    predictions are means and vary less; the scale of deviations begins at 0. If no section has a measurement, the left
    panel is left out; a section without one has no spots in it.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    genes
        One gene or several, among those predicted.
    key
        Stem of the keys that :func:`spade.tl.predict_expression` wrote.
    deviation
        Whether to draw a third panel with the deviation of the prediction.
    layer
        Layer with the measured expression; None: ``X``. Raw counts are log-normalised.
    normalized
        Whether these values are normalised already and taken as they are.
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
    Array of Axes, ``(n_sections × n_genes, n_panels)``, in µm from the upper left corner of the image. Spots without a
    value are not coloured.

    Raises
    ------
    KeyError
        No such prediction, genes that were not predicted, or no patches.
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
    check_flag("deviation", deviation)
    check_flag("normalized", normalized)
    wanted = _names(genes)
    drawn: list[tuple[View, _Values]] = []
    for sample in iter_samples(samples, table_key=table_key):
        values = _read(sample, wanted, key, layer, deviation=deviation, normalized=normalized)
        drawn += [(view, values) for view in views(sample, patches_key)]
    frames = common_frames([view.frame() for view, _ in drawn])
    names = [name for name in _Values._fields if any(getattr(values, name) is not None for _, values in drawn)]
    axes = panels_of(ax, len(drawn) * len(wanted), names, frames[0])
    rows = iter(axes)
    for (view, values), box in zip(drawn, frames, strict=True):
        for i, gene in enumerate(wanted):
            draw_row(next(rows), view, box, values.of(names, view.rows, i), gene)
    finish(show=show)
    return axes


def _names(genes: object) -> list[str]:
    """Return the genes asked for."""
    names = [genes] if isinstance(genes, str) or not isinstance(genes, Iterable) else list(genes)
    if not names:
        raise ValueError("genes is empty; name genes that were predicted.")
    return [str(check_text("genes", name)) for name in names]


class _Values(NamedTuple):
    """Expression of one sample, ``(n_obs, genes)``, in the order of the panels; None: not drawn, NaN: unknown."""

    measured: Floats | None
    predicted: Floats
    deviation: Floats | None

    def of(self, names: list[str], rows: Rows, gene: int) -> dict[str, Floats]:
        """Return the values of one gene in some rows, for every panel."""
        arrays = {name: getattr(self, name) for name in names}
        return {
            name: np.full(len(rows), np.nan) if array is None else array[rows, gene] for name, array in arrays.items()
        }


def _read(
    sample: Sample, genes: list[str], key: str, layer: str | None, *, deviation: bool, normalized: bool
) -> _Values:
    """Read the predicted genes of one sample, and what was measured of them."""
    frame = read_predicted(sample, key)
    if missing := [gene for gene in genes if gene not in frame]:
        raise KeyError(
            f"{sample.name}: genes: {shorten(missing)} were not predicted; predicted genes: {shorten(frame.columns)}. "
            "Genes are matched exactly."
        )
    spread = read_predicted(sample, key, deviation=True)[genes].to_numpy(float) if deviation else None
    return _Values(
        read_measured(sample, key, genes, layer, normalized=normalized), frame[genes].to_numpy(float), spread
    )


def panels_of(ax: Any, n_rows: int, names: list[str], frame: Floats) -> NDArray[Any]:
    """Return the Axes given, or those of a new figure, ``(n_rows, len(names))``."""
    if ax is not None:
        return given_axes(ax, (n_rows, len(names)), f"{plural(n_rows, 'row')} × ({', '.join(names)})")
    aspect = (frame[3] - frame[1]) / (frame[2] - frame[0])
    figure = new_figure((PANEL + 0.8) * len(names), (PANEL * aspect + 0.5) * n_rows)
    return figure.subplots(n_rows, len(names), squeeze=False)


def draw_row(
    axes: NDArray[Any], view: View, box: Floats, panels: dict[str, Floats], gene: str, unit: str = UNIT
) -> None:
    """Draw one gene (or score, in its ``unit``) in one section: a panel per entry of ``panels``."""
    for ax, (name, values) in zip(axes, panels.items(), strict=True):
        draw_tissue(ax, view, box, FADE)
        known = values[np.isfinite(values)]
        head = f"{view.name}: {gene}, measured" if name == "measured" else f"{gene}, {name}"
        if not len(known):
            title(ax, f"{head}: none")
            continue
        spots = draw_spots(ax, view, cmap=CMAP if name != "deviation" else "magma_r", linewidth=0)
        low, high = np.percentile(known, [2, 98]) if name != "deviation" else (0.0, float(known.max()))
        spots.set_norm(Normalize(low, max(high, low + 1e-6)))
        spots.set_array(np.ma.masked_invalid(values))
        colour_bar(ax, spots, unit if name != "deviation" else "deviation")
        title(ax, head + (_agreement(panels) if name == "predicted" else ""))


def _agreement(panels: dict[str, Floats]) -> str:
    """Return the correlation over the spots that have both values, as text."""
    if "measured" not in panels or np.isnan(panels["measured"]).all():
        return ""
    both = np.isfinite(panels["measured"]) & np.isfinite(panels["predicted"])
    value = pearson_per_gene(panels["measured"][both][:, None], panels["predicted"][both][:, None])[0]
    return f", r = {value:.2f}" if np.isfinite(value) else ", no variance"
