"""What the file of a slide states: microns per pixel, objective, scanner, and what else it holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spade.core.spots.lattice import TOLERANCE
from spade.io._files.damaged import DamagedFileError
from spade.io._images.levels import LazyLevel, same_view

#: µm/px that the finest level of a slide can have: 1,200 pixels per inch, of a printer or flatbed, are 21 µm/px.
FINEST_UM, COARSEST_UM = 0.02, 20.0
#: Width and height of a pixel may differ by this share.
SQUARE = 0.03
#: Bytes of the largest tile or strip that is decoded at once.
MAX_TILE = 2**28


@dataclass(frozen=True)
class Slide:
    """A slide file as a backend reads it.

    Attributes
    ----------
    levels
        The slide at its resolutions, finest first.
    backend, vendor
        Library that reads it, and the name of its format.
    scales
        Width and height of a pixel in µm as they are stated, unchecked, by what states them; the best first.
    objective, scanner
        As they are stated; empty: not.
    associated
        Names of the other pictures in the file, such as ``"label"`` and ``"macro"``.
    bounds
        x, y, width and height of the scanned part in pixels of the finest level; empty: not stated.
    """

    levels: Sequence[LazyLevel]
    backend: str
    vendor: str
    scales: Sequence[tuple[str, object, object]]
    objective: object = ""
    scanner: str = ""
    associated: Sequence[str] = ()
    bounds: Sequence[int] = ()

    def record(self, path: Path) -> dict[str, Any]:
        """Return the facts that are known, as plain values for ``attrs``."""
        power = number(self.objective)
        facts = {
            "file": path.name,
            "vendor": self.vendor,
            "backend": self.backend,
            "scanner": self.scanner,
            "objective": power if power > 0 else None,
            "levels": [[level.shape[2], level.shape[1]] for level in self.levels],
            "associated": list(self.associated),
            "bounds": list(self.bounds),
        }
        return {key: value for key, value in facts.items() if value not in (None, "", [])}


def number(value: object) -> float:
    """Return a finite number that a file states as a number or text, else NaN."""
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return found if math.isfinite(found) else math.nan


def slide_mpp(path: Path, scales: Iterable[tuple[str, object, object]], given: float | None) -> float:
    """Return the µm/px of a slide: what its file states, or what is given if it states nothing.

    Raises
    ------
    ValueError
        Neither is there, both contradict each other, or the pixels are not square.
    """
    rejected = []
    for source, stated_x, stated_y in scales:
        x, y = number(stated_x), number(stated_y)
        if not (FINEST_UM <= x <= COARSEST_UM and FINEST_UM <= y <= COARSEST_UM):
            rejected.append(f"{source} says {_said(stated_x)} × {_said(stated_y)} µm")
            continue
        if abs(x / y - 1) > SQUARE:
            raise ValueError(
                f"path={str(path)!r}: its pixels are {x:.4g} µm wide and {y:.4g} µm high ({source}), but only slides "
                "with square pixels are read; resample it."
            )
        mpp = x if x == y else (x + y) / 2
        if given is not None and abs(given / mpp - 1) > TOLERANCE:
            raise ValueError(
                f"mpp={given:.4g} contradicts {str(path)!r}, which states {mpp:.4g} µm/px ({source}); leave mpp= out "
                "(it is microns per pixel of the finest level)."
            )
        return mpp if given is None else given
    if given is not None:
        return given
    why = "; ".join(rejected) or "there is no entry with a unit"
    raise ValueError(
        f"path={str(path)!r} states no µm/px of a microscope ({why}): give mpp=, microns per pixel of its finest level."
    )


def _said(value: object) -> str:
    found = number(value)
    return repr(value) if math.isnan(found) else f"{found:.4g}"


def check_levels(path: Path, levels: Sequence[LazyLevel]) -> None:
    """Raise if a level is not the finest one, shrunk evenly, or is read in pieces that are too large."""
    _, height, width = levels[0].shape
    for place, level in enumerate(levels):
        _, rows, columns = level.shape
        if not same_view((rows, columns), (height, width)):
            raise wrong_pyramid(path, f"level {place}", (rows, columns), (height, width))
        if (size := 3 * min(level.tile[0], rows) * min(level.tile[1], columns)) > MAX_TILE:
            raise DamagedFileError(
                f"path={str(path)!r} is stored in pieces of {size:,} bytes, so that single regions cannot be read; "
                "convert it to a tiled, pyramidal TIFF (vips tiffsave --tile --pyramid)."
            )


def wrong_pyramid(path: Path, which: str, shape: Sequence[int], finest: Sequence[int]) -> DamagedFileError:
    """Return the error of a level that is not the slide at another size."""
    return DamagedFileError(
        f"path={str(path)!r} has a wrong pyramid: {which} of {shape[1]} × {shape[0]} pixels is not the first one of "
        f"{finest[1]} × {finest[0]}, shrunk evenly; write the levels anew (vips tiffsave --tile --pyramid)."
    )
