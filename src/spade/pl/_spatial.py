"""Sections with the values of their spots: genes and columns of ``obs``, at true size on the H&E image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spade import _keys
from spade._checks import check_idle, plural
from spade._samples.open import Samples, iter_samples
from spade._samples.shown.colours import ColumnColours, join_color, read_colors
from spade.core.checks import check_names_given, check_positive, check_share, check_text
from spade.pl._draw.axes import GREY, NARROW, finish, panel_grid, title
from spade.pl._draw.colouring import Colouring
from spade.pl._draw.tissue import View, common_frames, draw_spots, draw_tissue, views_of
from spade.pl._draw.values import FADE, draw_values

PANEL = 3.2
#: Panels beside each other of a single section.
NCOLS = 4


def spatial(
    samples: Samples,
    color: str | Sequence[str] | None = None,
    *,
    layer: str | None = None,
    normalized: bool = False,
    palette: str | Sequence[str] | Mapping[str, str] | None = None,
    groups: str | Sequence[str] | None = None,
    cmap: str | Colormap | None = None,
    vmin: float | str | None = None,
    vmax: float | str | None = None,
    size: float = 1.0,
    alpha: float = 1.0,
    alpha_img: float | None = None,
    image_key: str | Mapping[str, str] | None = None,
    mpp: float | Mapping[str, float] | None = None,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Draw genes and columns of ``obs`` on the tissue.

    One row per section and one column per colour: the spots, at their true size, on the H&E image, all to one scale.
    A colour means the same value in all sections. Sections need no :func:`spade.pp.patches`, and tiles of slides are
    drawn as squares (:func:`slide` is quicker for very many).

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    color
        One or several of: a gene; an ``obs`` column, categories or numbers; a column of ``obsm`` as ``"key:column"``,
        such as ``"X_predicted:ERBB2"`` for predicted expression. A name of both a gene and a column is the column.
        None: the image with the outlines of the spots.
    layer
        Layer with the expression of genes; None: ``X``. Raw counts are drawn as log1p of counts per 10,000.
    normalized
        Whether these values are normalised already and taken as they are.
    palette
        Colours of categories: a dict from category to colour, a list in the order of the categories, or the name of a
        colour map. None: those in ``uns``, else colours that differ with any kind of colour vision.
    groups
        Categories to draw; spots of others are open circles.
    cmap
        Colour map of numbers. None: ``"viridis"``.
    vmin, vmax
        Where the colours of numbers begin and end: a number, or a percentile such as ``"p99"``. None: the smallest and
        the largest value of each colour in all sections.
    size
        Factor on the true size of the spots.
    alpha
        Opacity of the spots, above 0 and up to 1; tiles hide the tissue unless it is lower.
    alpha_img
        Opacity of the image, from 0 to 1. None: 0.55, and 1 without ``color``.
    image_key, mpp
        Before :func:`spade.pp.patches`: the H&E image and its µm/px, as there. None: found, as there.
    patches_key
        What :func:`spade.pp.patches` or :func:`spade.pp.tiles` (``"patches"``) wrote, if there are such.
    table_key
        Table, or the key of tiles; may be left out when there is one.
    ncols
        Panels beside each other, in the order of the sections and, within these, of the colours. None: one row per
        section; of a single section at most 4.
    figsize
        Width and height of the figure in inches. In a narrow one, legends stand below the panels.
    ax
        As many Axes as there are panels, row by row; None: a new figure.
    show
        Call ``plt.show()``.
    return_fig
        Return the figure instead of the Axes.

    Returns
    -------
    Array of Axes, ``(n_sections, n_colors)``, in µm from the upper left corner of the image. Spots without a category
    are open circles, and those without a number are not drawn.

    Raises
    ------
    KeyError
        A colour, group or layer that is not there (the message lists what there is).
    ValueError
        µm/px that are not known, several possible images, settings without effect, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> gene = samples[0]["table"].var_names[0]
    >>> sp.pl.spatial(samples, ["domain", gene]).shape
    (2, 2)
    """
    names = [] if color is None else [check_text("color", name) for name in check_names_given("color", color)]
    colouring = Colouring(palette, groups, cmap, vmin, vmax)
    check_positive("size", size)
    check_share("alpha", alpha, "(0, 1]")
    fade = check_share("alpha_img", (FADE if names else 1.0) if alpha_img is None else alpha_img, "[0, 1]")
    if not names:
        idle = [*colouring.idle(), ("layer", layer, None), ("normalized", normalized, False), ("alpha", alpha, 1.0)]
        check_idle(idle, "color=None draws the outlines of the spots")
    drawn: list[View] = []
    values: list[list[ColumnColours]] = [[] for _ in names]
    for sample in iter_samples(samples, table_key=table_key):
        sections = views_of(sample, patches_key, image_key, mpp)
        drawn += sections
        columns = read_colors(sample, names, layer, normalized=normalized) if names else []
        for parts, (series, colours) in zip(values, columns, strict=True):
            parts += [(series.iloc[view.rows], colours) for view in sections]
    shown = colouring.of([join_color(name, parts) for name, parts in zip(names, values, strict=True)]) if names else []
    frames = common_frames([view.frame() for view in drawn])
    aspect = (frames[0][3] - frames[0][1]) / (frames[0][2] - frames[0][0])
    beside = sum(one.beside for one in shown) / len(shown) if shown else 0.2
    shape = len(drawn), max(len(names), 1)
    axes = panel_grid(
        shape,
        (PANEL + beside, PANEL * aspect + 0.5),
        f"{plural(shape[0], 'section')} × {plural(shape[1], 'colour')}",
        ax=ax,
        ncols=NCOLS if ax is None and ncols is None and shape[0] == 1 and shape[1] > NCOLS else ncols,
        figsize=figsize,
        least=NARROW if names else 0.0,
    )
    start = 0
    for row, view, box in zip(axes, drawn, frames, strict=True):
        rows = slice(start, start + len(view.rows))
        start += len(view.rows)
        if not names:
            draw_tissue(row[0], view, box, fade)
            draw_spots(row[0], view, size, facecolors="none", edgecolors=GREY, linewidth=0.6)
            noun = "tile" if view.diameter is None else "spot"
            title(row[0], f"{view.name} ({plural(len(view.rows), noun)})")
        for panel, one in zip(row, shown, strict=False):
            draw_values(panel, view, box, one, rows, alpha_img=fade, size=size, alpha=alpha)
    return finish(axes, show=show, return_fig=return_fig)
