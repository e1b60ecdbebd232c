"""Attention of the patches of a slide on the tissue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spade import _keys
from spade._checks import plural, shorten
from spade._samples.obs import group_labels
from spade._samples.open import Samples, iter_samples
from spade._samples.sample import Sample
from spade._samples.shown.colours import Column
from spade.core.arrays import Floats
from spade.core.checks import check_choice, check_positive, check_share, check_text
from spade.pl._draw.axes import colour_bar, finish, panel_grid, title
from spade.pl._draw.colouring import Colouring
from spade.pl._draw.tissue import View, common_frames, draw_spots, draw_tissue, views
from spade.tl._slides.attention_scale import PERCENTILE, RELATIVE, scaled_attention

FADE = 0.45
ATTENTION_CMAP = "inferno"
PANEL = 3.2


def attention(
    samples: Samples,
    *,
    key: str,
    scale: str = "percentile",
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
    """Show which patches decided the class, grade or number of a slide.

    One row per section, all to one scale: left the image, right the attention of the spots, at their true size.
    Attention sums to 1 over a slide, so its values depend on the number of patches; by default each patch is coloured
    by its rank among the patches of its slide.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    key
        ``obs`` key that :func:`spade.tl.attention` wrote, such as ``"organ_attention"``.
    scale
        ``"percentile"``: rank among the patches of the slide, from 0 to 100, the middle rank for ties. ``"relative"``:
        attention × number of patches, so that 1 is the mean; the colours end at the 99th percentile of the section.
    cmap
        Colour map of attention. None: ``"inferno"``.
    vmin, vmax
        Where its colours begin and end, as in :func:`spatial`. None: at 0 and, by ``scale``, at 100 or the 99th
        percentile (at least 2). The ends of the bar are pointed where values lie beyond.
    size
        Factor on the true size of the spots.
    alpha_img
        Opacity of the image below attention, from 0 to 1.
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
    Array of Axes, ``(n_sections, 2)``, in µm from the upper left corner of the image. Spots without attention are not
    drawn.

    Raises
    ------
    KeyError
        No such attention, or no patches.
    ValueError
        A wrong number of ``ax``, an unknown ``scale``, or colours that end where they begin.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(4, 20)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> slides = sp.tl.attention(samples, label_key="organ", use_rep="X_texture", n_epochs=3)
    >>> sp.pl.attention(samples[:2], key="organ_attention").shape
    (2, 2)
    """
    check_choice("scale", scale, (PERCENTILE, RELATIVE))
    check_text("key", key)
    colouring = Colouring(cmap=cmap, vmin=vmin, vmax=vmax)
    check_positive("size", size)
    check_share("alpha_img", alpha_img, "[0, 1]")
    drawn: list[tuple[View, Floats, str]] = []
    for sample in iter_samples(samples, table_key=table_key):
        values, predicted = read_attention(sample, key, scale)
        label = _keys.read_provenance(sample.table.uns, key)["label_key"]
        drawn += [
            (view, values[view.rows], f"{label}: {', '.join(dict.fromkeys(predicted[view.rows]))}")
            for view in views(sample, patches_key)
        ]
    frames = common_frames([view.frame() for view, _, _ in drawn])
    aspect = (frames[0][3] - frames[0][1]) / (frames[0][2] - frames[0][0])
    panels = f"{plural(len(drawn), 'section')} × 2"
    axes = panel_grid((len(drawn), 2), (PANEL + 0.5, PANEL * aspect + 0.5), panels, ax=ax, figsize=figsize)
    for (left, right), (view, values, label), box in zip(axes, drawn, frames, strict=True):
        draw_tissue(left, view, box)
        title(left, view.name)
        draw_tissue(right, view, box, alpha_img)
        _draw_heat(right, view, values, scale, colouring, size)
        title(right, f"attention, predicted {label}")
    return finish(axes, show=show, return_fig=return_fig)


def attention_keys(sample: Sample) -> list[str]:
    """Return the ``obs`` columns that hold attention, and not what is predicted beside it."""
    records, obs = sample.table.uns.get(_keys.UNS, {}), sample.table.obs
    written = [key for key, one in records.items() if one.get("function") == "tl.attention" and "label_key" in one]
    return [key for key in written if key in obs]


def read_attention(sample: Sample, key: str, scale: str) -> tuple[Floats, NDArray[np.object_]]:
    """Return the scaled attention of every row and, as text, what is predicted for it."""
    record = _keys.read_provenance(sample.table.uns, key)
    if key not in attention_keys(sample):
        raise KeyError(
            f"{sample.name}: key={key!r} does not hold attention; attention is in: "
            f"{shorten(attention_keys(sample)) or 'no column'}. Make it with sp.tl.attention(samples, …)."
        )
    sample.check_current(key)
    slide = group_labels(sample, record.get("slide_key"), "slide_key")
    scaled = scaled_attention(sample.table.obs[key].to_numpy(dtype=np.float64), slide, scale)
    predicted = sample.table.obs[f"{key}_predicted"]
    if pd.api.types.is_float_dtype(predicted):
        predicted = predicted.map("{:.4g}".format, na_action="ignore")
    names = predicted.astype(object).where(predicted.notna(), "none").to_numpy(dtype=object, copy=True)
    for name in np.unique(slide):  # rows without a patch get that of their slide
        rows = np.flatnonzero(slide == name)
        names[rows] = next((one for one in names[rows] if one != "none"), "none")
    return scaled, names


def _draw_heat(ax: Axes, view: View, values: Floats, scale: str, colouring: Colouring, size: float) -> None:
    known = values[np.isfinite(values)]
    top = 100.0 if scale == PERCENTILE else max(2.0, float(np.percentile(known, 99))) if len(known) else 2.0
    given = colouring.vmin, colouring.vmax
    low, high = (usual if end is None else end for end, usual in zip(given, (0, top), strict=True))
    column = Column("attention", values, None)
    cmap, norm = replace(colouring, vmin=low, vmax=high).scale(column, (0, 100), ATTENTION_CMAP)
    spots = draw_spots(ax, view, size, cmap=cmap, norm=norm, linewidth=0)
    spots.set_array(np.ma.masked_invalid(values))
    colour_bar(ax, spots, "attention, percentile of the slide" if scale == PERCENTILE else "attention × patches")
