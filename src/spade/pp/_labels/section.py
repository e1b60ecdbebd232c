"""Labels of the patches of one section, from polygons in pixels of its image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

import spade.pp._labels.areas as areas
from spade._samples.patches import PlacedPatches
from spade.core.arrays import Floats
from spade.pp._labels.sources import Outlines, PolygonSettings


@dataclass(frozen=True)
class SectionLabels:
    """Label (None: none) and covered share of each row of a section, and the number of polygons off its image."""

    labels: NDArray[np.object_]
    shares: Floats
    n_outside: int


def label_section(name: str, placed: PlacedPatches, outlines: Outlines, settings: PolygonSettings) -> SectionLabels:
    """Label the patches of a section from polygons in pixels of its image."""
    size = np.array(placed.size, dtype=np.float64)
    n_outside = _n_outside(outlines, placed, name)
    centres, inside, side = placed.centres, placed.inside, placed.side
    codes, names = pd.factorize(outlines.labels, sort=True)
    labels, shares = np.full(len(centres), None, dtype=object), np.full(len(centres), np.nan)
    known = codes >= 0
    if known.any() and inside.any():
        united, united_codes = areas.unite(outlines.polygons[known], codes[known])
        low, high = np.clip(centres[inside] - side / 2, 0, size), np.clip(centres[inside] + side / 2, 0, size)
        pairs = areas.cover(shapely.box(*low.T, *high.T), united, united_codes)
        if settings.by == "area":
            candidates = pairs.take(pairs.share >= settings.min_share - areas.TIE)
        else:
            candidates = areas.at(shapely.points(centres[inside]), united, united_codes)
        chosen = areas.choose(candidates, int(inside.sum()))
        shares[inside] = areas.share_of(pairs, chosen)
        labels[inside] = np.array([*names, None], dtype=object)[chosen]
    return SectionLabels(labels, shares, n_outside)


def _n_outside(outlines: Outlines, placed: PlacedPatches, name: str) -> int:
    """Return the number of polygons that lie off the image; raise if all do."""
    off = ~shapely.intersects(outlines.polygons, shapely.box(0, 0, *placed.size))
    if off.all():
        x0, y0, x1, y1 = shapely.total_bounds(outlines.polygons)
        raise ValueError(
            f"{name}: all {len(off)} polygons lie outside images[{placed.image_key!r}] of {placed.size[0]} × "
            f"{placed.size[1]} pixels: they span x {x0:.0f} to {x1:.0f} and y {y0:.0f} to {y1:.0f}. Was another image "
            f"annotated, or this one at another scale ({placed.mpp:.4g} µm/px here)? Then pass mpp=, the µm per pixel "
            "of the image that was annotated."
        )
    return int(off.sum())
