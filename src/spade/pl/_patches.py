"""Patches on the tissue, and some of them as they are read for an encoder."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from spade import _keys
from spade._checks import plural, shorten
from spade._samples.open import Samples, iter_samples
from spade.core.arrays import Floats, Rows
from spade.core.checks import check_count
from spade.core.rng import as_seed, numpy_stream
from spade.pl._draw.axes import SMALL, TEXT, bare, finish, given_axes, new_figure, title
from spade.pl._draw.tissue import BORDER, View, common_frames, draw_border, draw_tissue, scale_bar, squares, views

SQUARE, CHOSEN = "#0b3d6b", "#000000"
FADE = 0.75
#: Inches of a zoomed patch, and the height of the overview in patches: two of them and the gap between.
UNIT, OVERVIEW = 1.55, 2.22


def patches(
    samples: Samples,
    *,
    spots: str | Iterable[str] | None = None,
    n: int = 6,
    patches_key: str = _keys.PATCHES,
    rng: int | np.random.Generator = 0,
    table_key: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Show where the patches lie and what they contain.

    For every section: the squares on the tissue, then some patches as they are read for an encoder (at their
    resolution, reflected beyond the border of the image), with the spot as a circle. What follows in
    :func:`spade.pp.encode_patches` is not shown: ``colour=``, and the resizing of the network. Numbers mark their
    places.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    spots
        Instance ids of the patches to show in each section; None: ``n`` drawn at random from the valid ones.
    n
        Patches to show per section, if ``spots`` is None.
    patches_key
        What :func:`spade.pp.patches` wrote.
    rng
        Seed of the draw.
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
    Array of Axes, ``(n_sections, 1 + n)``: the overview, then the patches; those not needed are invisible. Axes are in
    µm from the upper left corner of the image.

    Raises
    ------
    KeyError
        No patches, or spots that are in no section.
    ValueError
        ``n`` that is not a positive whole number, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(1, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pl.patches(samples, n=4).shape
    (1, 5)
    """
    check_count("n", n)
    seed = as_seed(rng)
    drawn: list[View] = []
    for sample in iter_samples(samples, table_key=table_key):
        drawn += views(sample, patches_key)
    chosen = [_sample(view, n, seed) for view in drawn] if spots is None else _find(drawn, spots)
    most = max(map(len, chosen))
    frames = common_frames([view.frame(off_image=True) for view in drawn])
    axes = _panels(ax, len(drawn), most, frames[0], figsize)
    for row, view, positions, box in zip(axes, drawn, chosen, frames, strict=True):
        _draw_overview(row[0], view, positions, box)
        for number, (panel, position, pixels) in enumerate(
            zip(row[1:], positions, view.patches(positions), strict=False), start=1
        ):
            _draw_patch(panel, view, int(position), pixels, number)
        for panel in row[1 + len(positions) :]:
            panel.set_visible(False)
    return finish(axes, show=show, return_fig=return_fig)


def _sample(view: View, n: int, seed: int) -> Rows:
    """Return random valid spots, in the order of the rows."""
    valid = np.flatnonzero(view.inside)
    return np.sort(numpy_stream(seed, f"patches of {view.name}").choice(valid, min(n, len(valid)), replace=False))


def _find(drawn: list[View], spots: object) -> list[Rows]:
    """Look the spots up in every section."""
    wanted = [spots] if isinstance(spots, str) or not isinstance(spots, Iterable) else list(spots)
    names = pd.Index(list(map(str, wanted)), dtype=object)
    positions = [np.asarray(view.ids.astype(str).get_indexer(names)) for view in drawn]
    missing = [spot for spot, known in zip(wanted, np.max(positions, axis=0) >= 0, strict=True) if not known]
    if missing or not wanted:
        raise KeyError(
            f"spots: {shorten(missing) or 'an empty list'} not found; spots have names like "
            f"{shorten(drawn[0].ids, 3)} in {', '.join(view.name for view in drawn)}. Name some of these, or leave "
            "spots= out."
        )
    return [rows[rows >= 0] for rows in positions]


def _panels(ax: Any, n_rows: int, most: int, frame: Floats, figsize: object) -> NDArray[Any]:
    if ax is not None:
        return given_axes(ax, (n_rows, 1 + most), f"{plural(n_rows, 'section')} × (overview + {most})", figsize=figsize)
    width = OVERVIEW * (frame[2] - frame[0]) / (frame[3] - frame[1])
    columns = ceil(most / 2)
    figure = new_figure(UNIT * (width + columns) + 0.3, (2 * UNIT + 0.9) * n_rows, figsize)
    grid = figure.add_gridspec(2 * n_rows, 1 + columns, width_ratios=[width, *[1] * columns])
    axes = np.empty((n_rows, 1 + most), dtype=object)
    for i in range(n_rows):
        axes[i, 0] = figure.add_subplot(grid[2 * i : 2 * i + 2, 0])
        for j in range(most):
            axes[i, 1 + j] = figure.add_subplot(grid[2 * i + j // columns, 1 + j % columns])
    return axes


def _draw_overview(ax: Axes, view: View, positions: Rows, box: Floats) -> None:
    draw_tissue(ax, view, box, FADE)
    ax.set_anchor("NW")
    for mask, colour, label in ((view.inside, SQUARE, "valid"), (~view.inside, BORDER, "not valid")):
        corners = squares(view.centres[mask], view.side)
        ax.add_collection(
            PolyCollection(corners, facecolors="none", edgecolors=colour, linewidths=0.5, label=label),
            autolim=False,
        )
    for number, position in enumerate(positions, start=1):
        ax.add_collection(
            PolyCollection(
                squares(view.centres[[position]], view.side), facecolors="none", edgecolors=CHOSEN, linewidths=1.6
            ),
            autolim=False,
        )
        x, y = view.centres[position] + view.side / 2 * np.array([1, -1])
        ax.text(
            x, y, str(number), fontsize=TEXT, fontweight="bold", ha="left", va="bottom",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip
    resolution = f"{view.size_px} px at {view.side / view.size_px:.3g} µm/px (image {view.mpp:.3g} µm/px)"
    title(ax, f"{view.name}: {view.side:g} µm patches\n{resolution}")
    n_off = int((~view.inside).sum())
    handles = [Line2D([], [], color=SQUARE, linewidth=1, label=f"valid ({len(view.inside) - n_off:,})")]
    if n_off:
        handles.append(Line2D([], [], color=BORDER, linewidth=1, label=f"not valid ({n_off:,})"))
    ax.legend(
        handles=handles, loc="upper right", bbox_to_anchor=(1.0, 0.0), ncols=2, fontsize=SMALL, frameon=False,
        borderaxespad=0.2, handlelength=1.2, columnspacing=0.8, handletextpad=0.4,
    )  # fmt: skip


def _draw_patch(ax: Axes, view: View, position: int, pixels: NDArray[np.uint8], number: int) -> None:
    x, y = view.centres[position]
    left, right, top, bottom = x - view.side / 2, x + view.side / 2, y - view.side / 2, y + view.side / 2
    ax.imshow(pixels, extent=(left, right, bottom, top), interpolation="antialiased")
    ax.set_anchor("NW")
    if view.diameter is not None:
        spot = Circle((x, y), view.diameter / 2, fill=False, edgecolor=CHOSEN, linewidth=1.0)
        spot.set_path_effects([withStroke(linewidth=2.2, foreground="white", alpha=0.7)])
        ax.add_patch(spot)
    draw_border(ax, view)
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    bare(ax)
    note = "" if view.inside[position] else " (not valid)"
    ax.set_title(f"{number}  {view.ids[position]}{note}", fontsize=SMALL, loc="left", pad=2)
    if number == 1:
        scale_bar(ax, small=True)
