"""Values of the spots of a section on its image, with what explains their colours."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from spade.core.arrays import Floats
from spade.pl._draw.axes import GREY, colour_bar, dots_legend, is_narrow, title
from spade.pl._draw.colouring import Coloured
from spade.pl._draw.tissue import View, draw_spots, draw_tissue

#: Opacity of the image below values.
FADE = 0.55


def draw_values(
    ax: Axes,
    view: View,
    box: Floats,
    shown: Coloured,
    rows: slice,
    *,
    alpha_img: float = FADE,
    size: float = 1.0,
    alpha: float | None = None,
) -> None:
    """Draw the image of a section, the values of its spots (some ``rows`` of a column), and a bar or a legend."""
    column = shown.column
    draw_tissue(ax, view, box, alpha_img)
    title(ax, f"{view.name}: {column.name}")
    if shown.scale is not None:
        cmap, norm = shown.scale
        spots = draw_spots(ax, view, size, cmap=cmap, norm=norm, linewidth=0, alpha=alpha)
        spots.set_array(np.ma.masked_invalid(column.values[rows]))
        colour_bar(ax, spots, column.name)
        return
    faces = column.faces(rows)
    edges = [GREY if face == "none" else "none" for face in faces]
    draw_spots(ax, view, size, facecolors=faces, edgecolors=edges, linewidth=0.6, alpha=alpha)
    noun = "tiles" if view.diameter is None else "spots"
    if is_narrow(ax):
        ax.set_anchor("N")
    dots_legend(ax, column.legend(rows, shown.missing), f"{column.name} ({noun})", below=is_narrow(ax))
