"""Tissue and tiles on whole slides."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from spade import _keys
from spade._checks import plural, shorten
from spade._samples.open import Samples, iter_slides
from spade._samples.placement import pixels_of
from spade._samples.sample import Opened, Sample
from spade._samples.slides.image import slide_image
from spade.core.arrays import Floats
from spade.core.checks import check_share, check_text
from spade.core.errors import warn
from spade.io._recorded.frames import systems_of
from spade.pl._draw.axes import SMALL, finish, panel_grid, title
from spade.pl._draw.tissue import RASTERISE_ABOVE, View, draw_tissue, image_view, squares, views

TISSUE, TILE = "#009e73", "#0b3d6b"
PANEL = 4.2


def tiles(
    samples: Samples,
    *,
    tiles_key: str = _keys.TILES,
    tissue_key: str = _keys.TISSUE,
    image_key: str | None = None,
    alpha_img: float = 1.0,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Show the tissue and the tiles of slides.

    One panel per slide: the whole image at a low resolution, the outlines of the tissue, and the tiles. What is not
    there yet under its default key is left out, so that tissue can be looked at before tiles are laid; tiles on tissue
    that was found anew since are left out, too, with a warning.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    tiles_key
        What :func:`spade.pp.tiles` wrote.
    tissue_key
        What :func:`spade.pp.tissue` wrote, or outlines that were drawn.
    image_key
        Image of a slide without tiles; None: that of the tissue.
    alpha_img
        Opacity of the image, from 0 to 1.
    ncols
        Slides beside each other; None: up to 3.
    figsize
        Width and height of the figure in inches.
    ax
        As many Axes as there are slides; None: a new figure.
    show
        Call ``plt.show()``.
    return_fig
        Return the figure instead of the Axes.

    Returns
    -------
    Array of Axes, ``(n_slides,)``, in µm from the upper left corner of the image.

    Raises
    ------
    KeyError
        A slide with neither tissue nor tiles, or a key that was given and is not there.
    ValueError
        Tiles on another image than ``image_key``, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> slides = sp.datasets.toy(2, 30)
    >>> sp.pp.tissue(slides)
    >>> sp.pp.tiles(slides)
    >>> sp.pl.tiles(slides).shape
    (2,)
    """
    for name, key in (("tiles_key", tiles_key), ("tissue_key", tissue_key)):
        check_text(name, key)
    if image_key is not None:
        check_text("image_key", image_key)
    check_share("alpha_img", alpha_img, "[0, 1]")
    drawn = [_read(slide, tiles_key, tissue_key, image_key) for slide in iter_slides(samples)]
    boxes = [np.array([0, 0, *view.image_um]) for view, _, _ in drawn]
    axes = slide_panels(ax, boxes, ncols=ncols, figsize=figsize)
    for panel, (view, rings, area) in zip(axes, drawn, strict=True):
        _draw_slide(panel, view, rings, area, alpha_img=alpha_img)
    return finish(axes, show=show, return_fig=return_fig)


def _read(slide: Opened, tiles_key: str, tissue_key: str, image_key: str | None) -> tuple[View, list[Floats], str]:
    """Return a slide with its tiles (or none), the rings of its tissue in µm, and the number and area of its pieces."""
    table_key = _keys.tile_table(tiles_key)
    has_tissue = tissue_key in slide.sdata.shapes
    for name, key, usual, there in (
        ("tiles_key", tiles_key, _keys.TILES, table_key in slide.sdata.tables),
        ("tissue_key", tissue_key, _keys.TISSUE, has_tissue),
    ):
        if key != usual and not there:
            raise KeyError(
                f"{slide.name}: {name}={key!r} is not there; shapes: {shorten(slide.sdata.shapes) or 'none'}."
            )
    if table_key in slide.sdata.tables and not (
        tiles_key == _keys.TILES and has_tissue and _left_out(slide, table_key)
    ):
        (view,) = views(Sample(slide.name, slide.sdata, slide.path, table_key=table_key), _keys.PATCHES)
        record = _keys.read_provenance(slide.sdata.tables[table_key].uns, _keys.PATCHES)["regions"]
        of_tiles = next(iter(record.values()))["image"]
        if image_key not in (None, of_tiles):
            raise ValueError(
                f"{slide.name}: image_key={image_key!r}: the tiles lie on images[{of_tiles!r}]; leave image_key= out, "
                "or lay them anew with sp.pp.tiles."
            )
        image_key = of_tiles
    elif has_tissue:
        made_on = _keys.read_provenance(slide.sdata.attrs, tissue_key).get("image")
        image = slide_image(slide, made_on if image_key is None else image_key, None)
        image_key, view = image.key, image_view(slide.name, image)
    else:
        raise KeyError(
            f"{slide.name}: there are no tiles in tiles_key={tiles_key!r} and no tissue in tissue_key={tissue_key!r}. "
            "Run sp.pp.tissue(samples), then sp.pp.tiles(samples)."
        )
    if not has_tissue:
        return view, [], ""
    outlines = slide.sdata.shapes[tissue_key]
    system = systems_of(slide.sdata.images[image_key])[0]
    matrix = pixels_of(slide.sdata, outlines, image_key, system, slide.name)[:2] * view.mpp
    polygons = shapely.transform(outlines.geometry.to_numpy(), lambda xy: xy @ matrix[:, :2].T + matrix[:, 2])
    rings = [shapely.get_coordinates(ring) for ring in shapely.get_rings(polygons)]
    return view, rings, f"{plural(len(polygons), 'piece')}, {shapely.area(polygons).sum() / 1e6:.3g} mm²"


def _left_out(slide: Opened, table_key: str) -> bool:
    """Warn, and return True, if tiles lie on tissue that was found anew since."""
    stale = _keys.outdated(slide.sdata.tables[table_key].uns, _keys.PATCHES)
    if stale is not None:
        warn(
            f"{slide.name}: the tiles were made from {stale[1]!r}, which was written anew since, and are not drawn. "
            "Run sp.pp.tiles again."
        )
    return stale is not None


def slide_panels(
    ax: Any, boxes: list[Floats], beside: float = 0.0, *, ncols: object = None, figsize: object = None
) -> NDArray[Any]:
    """Return the Axes given, or those of a new figure, one per box in µm, with so many inches ``beside`` each."""
    n, aspect = len(boxes), max(float((box[3] - box[1]) / (box[2] - box[0])) for box in boxes)
    if ax is None and ncols is None:
        ncols = min(n, 3)
    size = PANEL + beside, PANEL * aspect + 1.1
    return panel_grid((n,), size, plural(n, "slide"), ax=ax, ncols=ncols, figsize=figsize)


def _draw_slide(ax: Axes, view: View, rings: list[Floats], tissue: str, *, alpha_img: float) -> None:
    n_tiles = len(view.centres)
    draw_tissue(ax, view, np.array([0, 0, *view.image_um]), alpha_img, border=False)
    ax.add_collection(LineCollection(rings, colors=TISSUE, linewidths=1.2), autolim=False)
    ax.add_collection(
        PolyCollection(
            squares(view.centres, view.side), facecolors="none", edgecolors=TILE, linewidths=0.4,
            rasterized=n_tiles > RASTERISE_ABOVE,
        ),
        autolim=False,
    )  # fmt: skip
    title(ax, f"{view.name} ({view.mpp:.3g} µm/px)")
    entries = [(TISSUE, f"tissue: {tissue}")] if rings else []
    entries += [(TILE, f"{plural(n_tiles, 'tile')} of {view.side:g} µm")] if n_tiles else []
    ax.legend(
        handles=[Line2D([], [], color=colour, linewidth=1.2, label=label) for colour, label in entries],
        loc="upper left", bbox_to_anchor=(0, -0.05), fontsize=SMALL, frameon=False, borderaxespad=0.2,
        handlelength=1.2,
    )  # fmt: skip
