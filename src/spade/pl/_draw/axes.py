"""What all plots share: panels, legends, colour bars and font sizes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from spade._checks import check_idle
from spade.core.checks import brief, check_count, check_flag, check_positive

#: Font sizes in points.
TITLE, TEXT, SMALL = 9, 8, 7
GREY = "#767676"
#: Most entries in a column of a legend.
LEGEND_ROWS = 14
#: Inches below which a figure is narrow, and characters of the legend in a line of it.
NARROW, LINE = 5.0, 48
#: Most characters of the name of a section or value.
NAME_LENGTH = 20


def new_figure(width: float, height: float, figsize: object = None) -> Figure:
    """Return a figure of ``width`` × ``height`` inches, unless ``figsize`` is given, in which labels do not overlap."""
    figure = plt.figure(figsize=figure_size(figsize, width, height))
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.08, wspace=0.02, hspace=0.02)
    return figure


def panel_grid(
    shape: tuple[int, ...],
    size: tuple[float, float],
    panels: str,
    *,
    ax: Any = None,
    ncols: object = None,
    figsize: object = None,
    least: float = 0.0,
) -> NDArray[Any]:
    """Return the Axes given, or those of a new figure, as an array of ``shape``.

    Parameters
    ----------
    shape
        Of the array; a figure has one row of panels per row of it, or ``ncols`` panels in each row, in reading order.
    size
        Width and height of a panel with all that stands beside it, in inches, if no ``figsize`` is given.
    panels
        What the panels are, for the error of a wrong number of Axes.
    ax, ncols, figsize
        As the user gave them.
    least
        Least width of a figure without ``figsize``: with :data:`NARROW`, legends stand beside the panels.
    """
    if ax is not None:
        return given_axes(ax, shape, panels, ncols=ncols, figsize=figsize)
    n = int(np.prod(shape))
    columns = shape[-1] if ncols is None else min(check_count("ncols", ncols), n)
    rows = -(-n // columns)
    figure = new_figure(max(size[0] * columns, least), size[1] * rows, figsize)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in axes[n:]:
        unused.set_visible(False)
    return np.asarray(axes[:n]).reshape(shape)


def figure_size(figsize: object, width: float, height: float) -> tuple[float, float]:
    """Return the width and height that the user gave, else the usual ones, in inches."""
    if figsize is None:
        return width, height
    sides = list(figsize) if isinstance(figsize, Iterable) and not isinstance(figsize, str) else []
    if len(sides) != 2:
        raise ValueError(f"figsize={brief(figsize)}: expected (width, height) in inches.")
    return check_positive("figsize", sides[0], "inches"), check_positive("figsize", sides[1], "inches")


def given_axes(ax: Any, shape: tuple[int, ...], panels: str, **of_figure: object) -> NDArray[Any]:
    """Return ``ax`` as an array of ``shape``; raise unless there is one for each of the ``panels`` described.

    Arguments that make a new figure (``of_figure``, such as ``figsize``) must be None.
    """
    check_idle([(name, value, None) for name, value in of_figure.items()], "the Axes of ax= are drawn into")
    axes = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    others = [item for item in axes if not isinstance(item, Axes)]
    if others:
        raise TypeError(f"ax: got {type(others[0]).__name__}; expected matplotlib Axes, one per panel: {panels}.")
    if len(axes) != np.prod(shape):
        raise ValueError(
            f"ax: got {len(axes)} Axes for {np.prod(shape)} panels: {panels}. Pass one per panel, for example from "
            "plt.subplots, or leave ax= out."
        )
    return axes.reshape(shape)


def clip(name: str, length: int = NAME_LENGTH) -> str:
    """Return a name, cut at its beginning if it is long."""
    return name if len(name) <= length else "…" + name[-length + 1 :]


def title(ax: Axes, text: str) -> None:
    """Write the title of a panel, aligned left."""
    ax.set_title(text, fontsize=TITLE, loc="left")


def bare(ax: Axes) -> None:
    """Remove ticks and draw a thin frame."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=True, linewidth=0.6, color=GREY)


def is_narrow(ax: Axes) -> bool:
    """Whether the figure of a panel is as narrow as the screen of a phone."""
    return bool(ax.figure.bbox.width / ax.figure.dpi < NARROW)


def dots_legend(ax: Axes, entries: Iterable[tuple[str, str]], heading: str, *, below: bool = False) -> None:
    """Put a legend of (label, colour) to the right of a panel, or ``below`` it and its scale bar.

    The colour ``"none"`` becomes an open circle.
    """
    handles = [
        Line2D(
            [], [], linestyle="none", marker="o", markersize=5, label=label,
            markerfacecolor=colour, markeredgecolor=GREY if colour == "none" else colour,
        )
        for label, colour in entries
    ]  # fmt: skip
    place: dict[str, Any] = {"bbox_to_anchor": (1.0, 1.0), "ncols": -(-len(handles) // LEGEND_ROWS)}
    if below:
        lower = ax.transAxes + ScaledTranslation(0, -0.12, ax.figure.dpi_scale_trans)
        longest = max((len(str(handle.get_label())) for handle in handles), default=1)
        place = {
            "bbox_to_anchor": (0.0, -0.035),
            "bbox_transform": lower,
            "ncols": max(1, LINE // (longest + 3)),
        }
    legend = ax.legend(
        handles=handles,
        title=heading,
        alignment="left",
        loc="upper left",
        **place,
        fontsize=TEXT,
        title_fontsize=TEXT,
        frameon=False,
        borderaxespad=0.2,
        handletextpad=0.1,
        columnspacing=1.0,
    )
    if below and len(ax.figure.axes) == 1:
        _keep_room(ax, legend)


def _keep_room(ax: Axes, legend: Legend) -> None:
    """Keep room for a legend at the lower border, which layouts forget below a panel that must keep its shape."""
    layout = ax.figure.get_layout_engine()
    if isinstance(layout, ConstrainedLayoutEngine):
        legend.set_in_layout(False)
        share = min(0.6, legend.get_window_extent().height / ax.figure.bbox.height + 0.04)
        layout.set(rect=(0, share, 1, 1 - share))


def lines_legend(ax: Axes, handles: Iterable[Line2D] | None = None, *, ncols: int = 1) -> None:
    """Put a legend of lines (None: those drawn) below a panel, its ticks and the name of its axis."""
    below = ax.transAxes + ScaledTranslation(0, -0.45, ax.figure.dpi_scale_trans)
    ax.legend(
        **({} if handles is None else {"handles": list(handles)}), loc="upper left", bbox_to_anchor=(0, 0),
        bbox_transform=below, fontsize=SMALL, frameon=False, borderaxespad=0, handlelength=2, ncols=ncols,
    )  # fmt: skip


def colour_bar(ax: Axes, mappable: ScalarMappable, label: str) -> Colorbar:
    """Put a colour bar to the right of a panel, whatever shape the panel has."""
    bar = ax.figure.colorbar(mappable, cax=ax.inset_axes((1.03, 0.1, 0.04, 0.8)))
    bar.set_label(label, fontsize=TEXT)
    bar.ax.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    bar.outline.set_linewidth(0.6)
    return bar


def finish(axes: Any = None, *, show: bool, return_fig: bool = False) -> Any:
    """Show all figures if asked to; return the Axes or, if asked for, their figure."""
    if check_flag("show", show):
        plt.show()
    return np.ravel(axes)[0].figure if check_flag("return_fig", return_fig) else axes
