"""Labels of the patches of one section, from polygons in pixels of its image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

import spade.pp._labels.areas as areas
from spade._samples.images import image_arrays
from spade._samples.patches import patch_centres
from spade._samples.sample import Sample, Section
from spade.pp._labels.sources import Outlines


@dataclass(frozen=True)
class SectionLabels:
    """Label (None: none) and covered share of each row of a section, and how many polygons lie off its image."""

    labels: NDArray[np.object_]
    shares: NDArray[np.float64]
    outside: int


def label_section(
    sample: Sample, section: Section, facts: dict[str, Any], side: float, outlines: Outlines, by: str, min_share: float
) -> SectionLabels:
    """Label the patches of a section, whose squares are ``side`` pixels wide."""
    finest = image_arrays(sample.sdata.images[facts["image"]])[0]
    size = np.array([finest.sizes["x"], finest.sizes["y"]], dtype=np.float64)
    outside = _outside(outlines, size, section, facts)
    centres, inside = patch_centres(sample, section, facts)
    codes, names = pd.factorize(outlines.labels, sort=True)
    labels, shares = np.full(len(centres), None, dtype=object), np.full(len(centres), np.nan)
    known = codes >= 0
    if known.any() and inside.any():
        united, united_codes = areas.unite(outlines.polygons[known], codes[known])
        low, high = np.clip(centres[inside] - side / 2, 0, size), np.clip(centres[inside] + side / 2, 0, size)
        pairs = areas.cover(shapely.box(*low.T, *high.T), united, united_codes)
        if by == "area":
            candidates = pairs.take(pairs.share >= min_share - areas.TIE)
        else:
            candidates = areas.at(shapely.points(centres[inside]), united, united_codes)
        chosen = areas.choose(candidates, int(inside.sum()))
        shares[inside] = areas.share_of(pairs, chosen)
        labels[inside] = np.array([*names, None], dtype=object)[chosen]
    return SectionLabels(labels, shares, outside)


def _outside(outlines: Outlines, size: NDArray[np.float64], section: Section, facts: dict[str, Any]) -> int:
    """Number of polygons that lie off the image; an error if all do."""
    off = ~shapely.intersects(outlines.polygons, shapely.box(0, 0, *size))
    if off.all():
        x0, y0, x1, y1 = shapely.total_bounds(outlines.polygons)
        raise ValueError(
            f"{section.name}: all {len(off)} polygons lie outside images[{facts['image']!r}] of {size[0]:.0f} × {size[1]:.0f} "
            f"pixels: they span x {x0:.0f} to {x1:.0f} and y {y0:.0f} to {y1:.0f}. Was another image annotated, or this one at "
            f"another scale ({facts['mpp']:.4g} µm/px here)? Then give mpp=, the µm per pixel of the image that was annotated."
        )
    return int(off.sum())
