"""Where training, validation and test spots lie, and the guard band between them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spade import _keys
from spade._checks import plural, shorten, value_strings
from spade._samples.open import Samples, iter_samples
from spade._samples.sample import Sample
from spade._samples.shown.colours import join_columns
from spade.core.arrays import Floats
from spade.core.checks import check_positive, check_share, check_text
from spade.core.spots.blocks import guard_band
from spade.pl._draw.axes import NARROW, finish, panel_grid, title
from spade.pl._draw.colouring import Colouring
from spade.pl._draw.tissue import View, common_frames, views_of
from spade.pl._draw.values import FADE, draw_values

logger = logging.getLogger("spade")
PANEL = 3.2
COLOURS = {_keys.TRAIN: "#0072b2", _keys.VAL: "#e69f00", _keys.TEST: "#009e73", _keys.GUARD: "#b5b5b5"}


def split(
    samples: Samples,
    *,
    key: str = _keys.STEM,
    palette: str | Sequence[str] | Mapping[str, str] | None = None,
    size: float = 1.0,
    alpha_img: float = FADE,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Draw the split of :func:`spade.pp.split` on the tissue.

    One panel per section: training, validation and test spots and those of the guard band, which belong to no part. If
    sections were cut into blocks, lines show these, and the title their side and the width of the guard band.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    key
        Stem of the key that :func:`spade.pp.split` wrote.
    palette
        Colours of the parts, as in :func:`spatial`.
    size
        Factor on the true size of the spots.
    alpha_img
        Opacity of the image, from 0 to 1.
    patches_key
        What :func:`spade.pp.patches` wrote, if there are patches.
    table_key
        Table; may be left out when there is one.
    ncols
        Sections beside each other; None: up to 3.
    figsize
        Width and height of the figure in inches.
    ax
        As many Axes as there are sections; None: a new figure.
    show
        Call ``plt.show()``.
    return_fig
        Return the figure instead of the Axes.

    Returns
    -------
    Array of Axes, one per section, in µm from the upper left corner of the image.

    Raises
    ------
    KeyError
        No such split.
    ValueError
        µm/px that are not known, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 200)
    >>> sp.pp.patches(samples)
    >>> sp.pp.split(samples, block_um=500, fractions=(0.5, 0, 0.5))
    >>> sp.pl.split(samples).shape
    (2,)
    """
    check_text("key", key)
    colouring = Colouring(palette=palette)
    check_positive("size", size)
    check_share("alpha_img", alpha_img, "[0, 1]")
    drawn: list[tuple[View, str, list[Floats] | None]] = []
    parts: list[pd.Series] = []
    for sample in iter_samples(samples, table_key=table_key):
        own = _read(sample, key)
        for view in views_of(sample, patches_key):
            of_section = own.to_numpy()[view.rows]
            parts.append(pd.Series(pd.Categorical(of_section, categories=list(COLOURS))))
            drawn.append((view, *_blocks(sample, view, key, of_section)))
    (shown,) = colouring.of([join_columns("split", [(part, COLOURS) for part in parts])])
    frames = common_frames([view.frame() for view, _, _ in drawn])
    aspect = (frames[0][3] - frames[0][1]) / (frames[0][2] - frames[0][0])
    axes = panel_grid(
        (len(drawn),),
        (PANEL + shown.beside, PANEL * aspect + 0.7),
        plural(len(drawn), "section"),
        ax=ax,
        ncols=min(len(drawn), 3) if ax is None and ncols is None else ncols,
        figsize=figsize,
        least=NARROW,
    )
    start = 0
    for panel, (view, made, lines), box in zip(axes, drawn, frames, strict=True):
        rows = slice(start, start + len(view.rows))
        start += len(view.rows)
        draw_values(panel, view, box, shown, rows, alpha_img=alpha_img, size=size)
        if lines is not None:
            panel.add_collection(LineCollection(lines, colors="black", linewidths=0.7), autolim=False)
        title(panel, f"{view.name}\n{made}" if made else view.name)
    return finish(axes, show=show, return_fig=return_fig)


def _read(sample: Sample, key: str) -> pd.Series:
    """Return the part of every spot; raise with the splits there are."""
    obs, name = sample.table.obs, _keys.split(key)
    if name not in obs:
        there = [column for column in obs if str(column).endswith(_keys.split(""))]
        raise KeyError(
            f"{sample.name}: key={key!r}: obs[{name!r}] is not there; splits there: {shorten(there) or 'none'}. Run "
            "sp.pp.split(samples)."
        )
    sample.check_current(name)
    parts = pd.Series(value_strings(obs[name]))
    if odd := sorted(set(parts) - {*COLOURS, ""}):
        raise ValueError(
            f"{sample.name}: obs[{name!r}] has the values {shorten(odd)}; a split has {shorten(COLOURS)}. "
            "sp.pl.spatial(samples, color=...) draws any column."
        )
    return parts


def _blocks(sample: Sample, view: View, key: str, parts: NDArray[np.object_]) -> tuple[str, list[Floats] | None]:
    """Return how a section was split, and the lines between its blocks, ``(2, 2)`` each, None if it has no blocks."""
    record: Any = _keys.read_provenance(sample.table.uns, _keys.split(key))
    if "block_um" not in record:
        return f"by {record.get('groupby', 'section')}" if record else "", None
    side, guard = float(record["block_um"]), record.get("guard_um")
    if guard is None:  # by the patches of the split, which may be others than those drawn, or gone
        size_um = _keys.read_provenance(sample.table.uns, record.get("patches_key", _keys.PATCHES)).get("size_um")
        guard = None if size_um is None else guard_band(view.centres, float(size_um))
    made = f"blocks of {side:g} µm" + ("" if guard is None else f", guard band of {guard:.4g} µm")
    corner = view.centres.min(0)
    cells = np.floor((view.centres - corner) / side).astype(int)
    kept = pd.DataFrame({"x": cells[:, 0], "y": cells[:, 1], "part": parts})[parts != _keys.GUARD]
    if (kept.groupby(["x", "y"])["part"].nunique() > 1).any():
        logger.info("%s: the blocks are not drawn, as spots were removed or moved since the split", view.name)
        return made, None
    low, high = corner, corner + side * (cells.max(0) + 1)
    lines = [[(x, low[1]), (x, high[1])] for x in np.arange(low[0], high[0] + side / 2, side)]
    lines += [[(low[0], y), (high[0], y)] for y in np.arange(low[1], high[1] + side / 2, side)]
    return made, list(map(np.array, lines))
