"""How values become colours: palette, groups, cmap, vmin and vmax, named and meant as in scanpy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, ListedColormap, Normalize, is_color_like, to_hex

from spade._checks import check_idle, shorten
from spade._samples.shown.colours import Column
from spade.core.arrays import Floats
from spade.core.checks import brief, check_names_given, is_number

CMAP = "viridis"
#: Colour of points without a value, where there is no tissue to be seen through them.
NO_VALUE = "#d0d0d0"
#: A percentile as the end of the colours, such as ``"p99"``.
PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)")
#: Whether values lie below and above the colours, and what a colour bar makes of it.
EXTEND = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
#: Inches for a colour bar, and for a legend without and per character of its longest label.
BAR, LEGEND, CHARACTER = 1.1, 1.0, 0.062


@dataclass(frozen=True)
class Coloured:
    """A column, the colour map and range of its numbers (None: categories), and what is said of rows without one."""

    column: Column
    scale: tuple[Colormap, Normalize] | None
    missing: str = "missing"

    @property
    def beside(self) -> float:
        """Inches that the colour bar or the legend takes beside a panel."""
        colours = self.column.colours
        return BAR if colours is None else LEGEND + CHARACTER * max(map(len, [self.column.name, *colours]))


@dataclass(frozen=True)
class Colouring:
    """Settings that a user gave for the colours of one or several columns, checked.

    Attributes
    ----------
    palette
        Colours of categories: a dict from category to colour, a list in the order of the categories, or the name of a
        colour map.
    groups
        Categories to draw.
    cmap
        Colour map of numbers.
    vmin, vmax
        Where its colours begin and end: a number, or a percentile such as ``"p99"``.
    """

    palette: Any = None
    groups: Any = None
    cmap: Any = None
    vmin: Any = None
    vmax: Any = None

    def __post_init__(self) -> None:
        """Check what can be checked without the values."""
        for name, value in (("vmin", self.vmin), ("vmax", self.vmax)):
            percentile = PERCENTILE.fullmatch(value) if isinstance(value, str) else None
            if value is not None and not is_number(value) and not (percentile and float(percentile[1]) <= 100):
                raise ValueError(f"{name}={brief(value)}: expected a number, or a percentile such as 'p99'.")
        cmap = self.cmap
        if cmap is not None and not isinstance(cmap, Colormap) and (not isinstance(cmap, str) or cmap not in colormaps):
            raise ValueError(f"cmap={brief(cmap)}: expected a colour map of matplotlib, such as {CMAP!r}.")
        if self.groups is not None:
            object.__setattr__(self, "groups", check_names_given("groups", self.groups))
        if self.palette is not None:
            object.__setattr__(self, "palette", _check_palette(self.palette))

    def idle(self) -> list[tuple[str, object, object]]:
        """Return all settings as :func:`spade._checks.check_idle` takes them."""
        return [(name, getattr(self, name), None) for name in ("palette", "groups", "cmap", "vmin", "vmax")]

    def of(
        self, columns: Sequence[Column], *, ends: tuple[float, float] = (0, 100), cmap: str = CMAP
    ) -> list[Coloured]:
        """Return how columns are drawn; ``ends`` are the percentiles at which colours end, unless the user says."""
        of_categories, of_numbers = self.idle()[:2], self.idle()[2:]
        if all(column.colours is None for column in columns):
            check_idle(of_categories, "numbers are coloured by cmap=")
        if all(column.colours is not None for column in columns):
            check_idle(of_numbers, "categories have colours already")
        known = dict.fromkeys(name for column in columns for name in column.colours or ())
        if unknown := [name for name in self.groups or () if name not in known]:
            raise KeyError(f"groups: {shorten(unknown)} is not among the categories: {shorten(known, 20)}.")
        if isinstance(self.palette, dict) and not known.keys() & self.palette.keys():
            raise KeyError(f"palette: it has none of the categories {shorten(known, 20)}.")
        return [
            Coloured(column, self.scale(column, ends, cmap)) if column.colours is None else self._categories(column)
            for column in columns
        ]

    def _categories(self, column: Column) -> Coloured:
        """Return a column of categories in the colours of the palette, without those that are in no group."""
        colours = dict(column.colours or {})
        if isinstance(self.palette, dict):
            lacking = [name for name in colours if name not in self.palette]
            if 0 < len(lacking) < len(colours):
                raise KeyError(f"palette: it has no colour for {shorten(lacking)} of {column.name!r}.")
            colours = {name: self.palette.get(name, colour) for name, colour in colours.items()}
        elif self.palette is not None:
            colours = dict(zip(colours, _listed(self.palette, len(colours), column.name), strict=True))
        chosen = [name for name in colours if name in (self.groups or ())]
        if not chosen:
            return Coloured(replace(column, colours=colours), None)
        values = np.where(np.isin(column.values.astype(str), chosen), column.values, "")
        shown = replace(column, values=values, colours={name: colours[name] for name in chosen})
        return Coloured(shown, None, "not in groups")

    def scale(self, column: Column, ends: tuple[float, float], cmap: str) -> tuple[Colormap, Normalize]:
        """Return the colour map and range of numbers."""
        known = column.values[np.isfinite(column.values)]
        low, high = (
            _end(f"p{usual}" if given is None else given, known)
            for given, usual in ((self.vmin, ends[0]), (self.vmax, ends[1]))
        )
        if low > high or (low == high and (self.vmin, self.vmax) != (None, None)):
            raise ValueError(
                f"vmin={low:g}, vmax={high:g} for {column.name!r}: expected vmin below vmax; without vmin= and vmax=, "
                "the values decide."
            )
        if low == high:  # there is one value
            low, high = low - 0.5, high + 0.5
        colours = colormaps.get_cmap(cmap if self.cmap is None else self.cmap).copy()
        extend: Any = EXTEND[bool((known < low).any()), bool((known > high).any())]
        colours.colorbar_extend = extend  # what colour bars take for their ends
        return colours, Normalize(low, high)


def _end(end: float | str, known: Floats) -> float:
    """Return where colours end: a number, or a percentile of the values (0 or 1 if there are none)."""
    if not isinstance(end, str):
        return float(end)
    share = float(end[1:])
    return float(np.percentile(known, share)) if len(known) else share / 100


def _check_palette(palette: object) -> dict[str, str] | list[str] | Colormap:
    """Return colours by category or in order, or a colour map; raise if these are none."""
    if isinstance(palette, str) and palette in colormaps:
        return colormaps[palette]
    listed = palette.values() if isinstance(palette, Mapping) else palette
    if isinstance(palette, str) or not isinstance(listed, Iterable) or not (colours := list(listed)):
        raise ValueError(
            f"palette={brief(palette)}: expected a dict from category to colour, a list of colours, or the name of a "
            "colour map such as 'tab20'."
        )
    if odd := [colour for colour in colours if not is_color_like(colour)]:
        raise ValueError(f"palette: {brief(odd[0])} is no colour of matplotlib.")
    plain = list(map(to_hex, colours))
    return dict(zip(map(str, palette), plain, strict=True)) if isinstance(palette, Mapping) else plain


def _listed(palette: list[str] | Colormap, n: int, column: str) -> list[str]:
    """Return ``n`` different colours."""
    if isinstance(palette, Colormap):
        of_few = isinstance(palette, ListedColormap) and palette.N < 100
        palette = [to_hex(palette(i if of_few else i / max(n - 1, 1))) for i in range(palette.N if of_few else n)]
    if len(palette) < n:
        raise ValueError(f"palette: it has {len(palette)} colours, but {column!r} has {n} categories.")
    return palette[:n]
