"""Measured and predicted expression in tissue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spade import _keys
from spade._checks import plural, shorten
from spade._samples.open import Samples, iter_samples
from spade._samples.predicted import read_measured, read_predicted
from spade._samples.sample import Sample
from spade._samples.shown.colours import Column
from spade.core.arrays import Floats, Rows
from spade.core.checks import check_flag, check_positive, check_share, check_text
from spade.core.expression.correlation import pearson_per_gene
from spade.pl._draw.axes import colour_bar, finish, panel_grid, title
from spade.pl._draw.colouring import CMAP, Colouring
from spade.pl._draw.tissue import View, common_frames, draw_spots, draw_tissue, views

FADE = 0.35
PANEL = 2.7
#: Percentiles at which the colours end.
ENDS = (2, 98)
#: Least end of the scale of deviations, which may all be 0.
LEAST = 1e-6
UNIT = "log expression"


def expression(
    samples: Samples,
    genes: str | Sequence[str],
    *,
    key: str = _keys.PREDICTED,
    deviation: bool = False,
    layer: str | None = None,
    normalized: bool = False,
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
    cmap, vmin, vmax
        Colours of measured and predicted expression, as in :func:`spatial`: with both ends as numbers, the two are on
        one scale.
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
    style = ExpressionStyle(Colouring(cmap=cmap, vmin=vmin, vmax=vmax), size, alpha_img)
    wanted = _names(genes)
    drawn: list[tuple[View, _Values]] = []
    for sample in iter_samples(samples, table_key=table_key):
        values = _read(sample, wanted, key, layer, deviation=deviation, normalized=normalized)
        drawn += [(view, values) for view in views(sample, patches_key)]
    frames = common_frames([view.frame() for view, _ in drawn])
    names = [name for name in _Values._fields if any(getattr(values, name) is not None for _, values in drawn)]
    axes = panels_of(ax, len(drawn) * len(wanted), names, frames[0], figsize=figsize)
    rows = iter(axes)
    for (view, values), box in zip(drawn, frames, strict=True):
        for i, gene in enumerate(wanted):
            draw_row(next(rows), view, box, values.of(names, view.rows, i), gene, style=style)
    return finish(axes, show=show, return_fig=return_fig)


@dataclass(frozen=True)
class ExpressionStyle:
    """Colours and unit of values, size of spots, and opacity of the image."""

    colouring: Colouring = field(default_factory=Colouring)
    size: float = 1.0
    alpha_img: float = FADE
    unit: str = UNIT

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_positive("size", self.size)
        check_share("alpha_img", self.alpha_img, "[0, 1]")


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


def panels_of(
    ax: Any, n_rows: int, names: list[str], frame: Floats, *, figsize: tuple[float, float] | None = None
) -> NDArray[Any]:
    """Return the Axes given, or those of a new figure, ``(n_rows, len(names))``."""
    size = PANEL + 0.8, PANEL * (frame[3] - frame[1]) / (frame[2] - frame[0]) + 0.5
    panels = f"{plural(n_rows, 'row')} × ({', '.join(names)})"
    return panel_grid((n_rows, len(names)), size, panels, ax=ax, figsize=figsize)


def draw_row(
    axes: NDArray[Any], view: View, box: Floats, panels: dict[str, Floats], gene: str, *, style: ExpressionStyle
) -> None:
    """Draw one gene (or score) in one section: a panel per entry of ``panels``."""
    for ax, (name, values) in zip(axes, panels.items(), strict=True):
        draw_tissue(ax, view, box, style.alpha_img)
        known = values[np.isfinite(values)]
        head = f"{view.name}: {gene}, measured" if name == "measured" else f"{gene}, {name}"
        if not len(known):
            title(ax, f"{head}: none")
            continue
        if name == "deviation":
            cmap, norm = colormaps["magma_r"], Normalize(0, max(float(known.max()), LEAST))
        else:
            cmap, norm = style.colouring.scale(Column(name, values, None), ENDS, CMAP)
        spots = draw_spots(ax, view, style.size, cmap=cmap, norm=norm, linewidth=0)
        spots.set_array(np.ma.masked_invalid(values))
        colour_bar(ax, spots, style.unit if name != "deviation" else "deviation")
        title(ax, head + (_agreement(panels) if name == "predicted" else ""))


def _agreement(panels: dict[str, Floats]) -> str:
    """Return the correlation over the spots that have both values, as text."""
    if "measured" not in panels or np.isnan(panels["measured"]).all():
        return ""
    both = np.isfinite(panels["measured"]) & np.isfinite(panels["predicted"])
    value = pearson_per_gene(panels["measured"][both][:, None], panels["predicted"][both][:, None])[0]
    return f", r = {value:.2f}" if np.isfinite(value) else ", no variance"
