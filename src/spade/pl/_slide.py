"""A whole slide, or a part of it, with the values of its tiles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spade import _keys
from spade._checks import check_idle, shorten
from spade._samples.open import Samples, iter_samples, iter_slides
from spade._samples.sample import Sample
from spade._samples.shown.colours import Column, ColumnColours, join_color, read_color
from spade._samples.slides.image import slide_image
from spade.core.arrays import Floats, Rows
from spade.core.checks import brief, check_positive, check_share, check_text, is_number
from spade.core.patches.heatmap import raster_of
from spade.core.patches.overview import MAX_PX
from spade.pl._attention import ATTENTION_CMAP, attention_keys, read_attention
from spade.pl._draw.axes import colour_bar, dots_legend, finish, is_narrow, title
from spade.pl._draw.colouring import Coloured, Colouring
from spade.pl._draw.tissue import View, draw_tissue, image_view, views
from spade.pl._tiles import slide_panels
from spade.tl._slides.attention_scale import PERCENTILE

#: Most pixels of the image along the longer side of a panel, and of the squares over it.
MOST_PX, SQUARES_PX = 8_000, 2_000
ALPHA = 0.6
#: Percentiles of all values at which the colours end.
ENDS = (1, 99)
ATTENTION = "attention, percentile of the slide"


def slide(
    samples: Samples,
    color: str | None = None,
    *,
    region: Sequence[float] | None = None,
    um_per_px: float | None = None,
    alpha: float = ALPHA,
    alpha_img: float = 1.0,
    palette: str | Sequence[str] | Mapping[str, str] | None = None,
    groups: str | Sequence[str] | None = None,
    cmap: str | Colormap | None = None,
    vmin: float | str | None = None,
    vmax: float | str | None = None,
    layer: str | None = None,
    normalized: bool = False,
    image_key: str | None = None,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Draw slides of any size, whole or a part of them, with the values of their tiles as squares over the tissue.

    The image is read from the level of its pyramid that suits the panel, window by window. A slide of a single level is
    averaged while it is read, which takes a pass over the region that is drawn. The squares are drawn as one picture,
    so that 100,000 tiles take no longer than a few. Where squares overlap, the one with the nearest centre is seen.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    color
        What colours the tiles or patches: an ``obs`` column (``"spade_expert"``, a label, a score); a gene; or a column
        of ``obsm`` as ``"key:column"``, such as ``"spade_expert_weights:3"`` or ``"X_predicted:ERBB2"``. Attention that
        :func:`spade.tl.attention` wrote is drawn as its percentile in the slide; ``"attention"`` names it if there is
        one. None: the image alone, which needs no table.
    region
        Box (x0, y0, x1, y1) in µm from the upper left corner of the image: the part to draw. Pixels of the finest level
        become µm by its µm/px. None: the whole image.
    um_per_px
        Microns per pixel at which the image is drawn. None: 1,200 pixels along the longer side.
    alpha
        Opacity of the squares, above 0 and up to 1.
    alpha_img
        Opacity of the image, from 0 to 1.
    palette, groups
        Colours of categories, and the categories to draw, as in :func:`spatial`.
    cmap
        Colour map of numbers. None: ``"viridis"``, of attention ``"inferno"``.
    vmin
        Value at which the colours begin, or a percentile such as ``"p5"``. None: the 1st percentile of all values
        drawn, of attention 0.
    vmax
        Value at which the colours end, or a percentile such as ``"p95"``. None: the 99th percentile of all values
        drawn, of attention 100.
    layer
        Layer with the expression of a gene; None: ``X``. Raw counts are drawn log-normalised.
    normalized
        Whether these values are normalised already and taken as they are.
    image_key
        With ``color=None``: the image. None: the only RGB image, or the finest of several that show the same area.
    patches_key
        What :func:`spade.pp.patches` or :func:`spade.pp.tiles` (``"patches"``) wrote; it holds the image of the tiles.
    table_key
        Table; may be left out when there is one.
    ncols
        Slides beside each other; None: up to 3.
    figsize
        Width and height of the figure in inches.
    ax
        As many Axes as there are panels; None: a new figure.
    show
        Call ``plt.show()``.
    return_fig
        Return the figure instead of the Axes.

    Returns
    -------
    Array of Axes, one per section (with ``color=None``: per object), in µm from the upper left corner of the image.
    Tiles without a value are not drawn. A legend counts the tiles of each category in the region.

    Raises
    ------
    KeyError
        No such column, gene or representation (the message lists what there is), or no patches.
    ValueError
        A region outside an image, so fine a resolution that the picture would have more than 8,000 pixels along a side,
        colours that end where they begin, settings without effect, tiles on tissue that was found anew since, or a
        wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> slides = sp.datasets.toy(2, 30)
    >>> sp.pp.tissue(slides)
    >>> sp.pp.tiles(slides)
    >>> sp.pl.slide(slides, "tissue_share", table_key="tiles").shape
    (2,)
    >>> (ax,) = sp.pl.slide(slides[0], region=(0, 0, 500, 400))
    >>> ax.get_title(loc="left")
    'toy_0'
    """
    check_share("alpha", alpha, "(0, 1]")
    check_share("alpha_img", alpha_img, "[0, 1]")
    colouring = Colouring(palette, groups, cmap, vmin, vmax)
    shown: Coloured | None = None
    if color is None:
        idle = [*colouring.idle(), ("layer", layer, None), ("normalized", normalized, False), ("alpha", alpha, ALPHA)]
        idle += [("table_key", table_key, None), ("patches_key", patches_key, _keys.PATCHES)]
        check_idle(idle, "color=None draws the image alone")
        drawn = [image_view(one.name, slide_image(one, image_key, None)) for one in iter_slides(samples)]
    else:
        check_idle([("image_key", image_key, None)], "tiles are drawn on the image that they were laid on")
        drawn, column = _read(samples, color, patches_key, table_key, layer, normalized=normalized)
        if column.name == ATTENTION:
            (shown,) = replace(
                colouring, vmin=0 if vmin is None else vmin, vmax=100 if vmax is None else vmax
            ).of([column], cmap=ATTENTION_CMAP)  # fmt: skip
        else:
            (shown,) = colouring.of([column], ends=ENDS)
    boxes = [_box(view, region) for view in drawn]
    sizes = [_pixels(box, um_per_px) for box in boxes]
    axes = slide_panels(ax, boxes, 0.0 if shown is None else shown.beside, ncols=ncols, figsize=figsize)
    start = 0
    for panel, view, box, max_px in zip(axes, drawn, boxes, sizes, strict=True):
        draw_tissue(panel, view, box, alpha_img, border=False, max_px=max_px)
        title(panel, view.name if shown is None else f"{view.name}: {color}")
        if shown is not None:
            _draw_squares(panel, view, box, shown, np.arange(start, start + len(view.rows)), alpha=alpha)
        start += len(view.rows)
    return finish(axes, show=show, return_fig=return_fig)


def _read(
    samples: Samples, color: str, patches_key: str, table_key: str | None, layer: str | None, *, normalized: bool
) -> tuple[list[View], Column]:
    """Return the sections, and the column over all their rows."""
    drawn: list[View] = []
    values: list[ColumnColours] = []
    attention: set[bool] = set()
    check_text("color", color)
    for sample in iter_samples(samples, table_key=table_key):
        name = _attention_key(sample) if color == "attention" and color not in sample.table.obs else color
        attention.add(name in attention_keys(sample))
        if len(attention) > 1:
            raise ValueError(f"{sample.name}: color={color!r} is attention in some of the samples and not in others.")
        series, colours = read_color(sample, name, layer, normalized=normalized)
        if attention == {True}:
            series = pd.Series(read_attention(sample, name, PERCENTILE)[0])
        sections = views(sample, patches_key)
        drawn += sections
        values += [(series.iloc[view.rows], colours) for view in sections]
    return drawn, join_color(ATTENTION if attention == {True} else color, values)


def _attention_key(sample: Sample) -> str:
    """Return the only ``obs`` column of attention."""
    written = attention_keys(sample)
    if len(written) != 1:
        raise KeyError(
            f"{sample.name}: color='attention': expected one column that sp.tl.attention wrote, but there are "
            f"{shorten(written) or 'none'}; obs: {shorten(sample.table.obs.columns, 8)}."
        )
    return written[0]


def _box(view: View, region: Any) -> Floats:
    """Return the box in µm to draw."""
    width, height = view.image_um
    if region is None:
        return np.array([0, 0, width, height])
    box = list(region) if isinstance(region, Iterable) and not isinstance(region, str) else []
    if len(box) != 4 or not all(map(is_number, box)) or not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"region={brief(region)}: expected (x0, y0, x1, y1) in µm, with x0 < x1 and y0 < y1.")
    if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
        raise ValueError(
            f"{view.name}: region={brief(region)} lies outside the image of {width:,.0f} × {height:,.0f} µm."
        )
    return np.array(box, dtype=np.float64)


def _pixels(box: Floats, um_per_px: float | None) -> int:
    """Return about how many pixels the image gets along the longer side of a box."""
    if um_per_px is None:
        return MAX_PX
    longest = float(np.max(box[2:] - box[:2]))
    n = round(longest / check_positive("um_per_px", um_per_px, "µm/px"))
    if not 1 <= n <= MOST_PX:
        raise ValueError(
            f"um_per_px={um_per_px:g}: {longest:,.0f} µm would be {n:,} pixels, but 1 to {MOST_PX:,} are drawn along a "
            "side. Choose a part of the slide with region=, or another um_per_px=."
        )
    return n


def _draw_squares(ax: Axes, view: View, box: Floats, shown: Coloured, rows: Rows, *, alpha: float) -> None:
    """Draw the values of one section, which are some rows of the column, with a colour bar or a legend."""
    raster, column = raster_of(view.centres, view.side, box, SQUARES_PX), shown.column
    index = raster.whole()
    extent = (raster.origin[0], raster.end[0], raster.end[1], raster.origin[1])
    if shown.scale is not None:
        values = np.ma.masked_invalid(np.append(column.values[rows], np.nan)[index])
        cmap, norm = shown.scale
        ax.imshow(values, cmap=cmap, norm=norm, extent=extent, alpha=alpha, interpolation="nearest")
        colour_bar(ax, ScalarMappable(norm, _on_glass(cmap, alpha)), column.name)
        return
    ax.imshow(column.rgba(rows)[index], extent=extent, alpha=alpha, interpolation="nearest")
    if is_narrow(ax):
        ax.set_anchor("N")
    near = view.side / 2
    in_box = (view.centres > box[:2] - near).all(1) & (view.centres < box[2:] + near).all(1)
    noun = "tiles" if view.diameter is None else "patches"
    entries = column.legend(rows[in_box], shown.missing)
    dots_legend(ax, entries, f"{column.name} ({noun})", below=is_narrow(ax))


def _on_glass(cmap: Colormap, alpha: float) -> Colormap:
    """Return the colours that show through on white, whatever the colour of the page."""
    seen: Any = ListedColormap(alpha * cmap(np.linspace(0, 1, cmap.N))[:, :3] + 1 - alpha)
    seen.colorbar_extend = cmap.colorbar_extend
    return seen
