"""A section on its image, drawn in µm from the image's upper left corner, with y pointing down."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import floor
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import Collection, EllipseCollection, PolyCollection
from matplotlib.patches import Rectangle
from matplotlib.transforms import blended_transform_factory
from numpy.typing import NDArray

from spade import _keys
from spade._checks import check_idle, shorten
from spade._samples.images import image_levels
from spade._samples.patches import maker, patch_record, placed_patches
from spade._samples.placement import place
from spade._samples.sample import Sample
from spade._samples.slides.image import SlideImage
from spade.core.arrays import Floats, Rows
from spade.core.checks import check_text
from spade.core.patches.overview import MAX_PX, read_region
from spade.core.patches.tiles import Level, iter_patches
from spade.io._recorded.frames import image_size
from spade.pl._draw.axes import SMALL, TEXT, bare
from spade.pp._patches import PatchSettings, join_rows
from spade.pp._scale import section_scale

logger = logging.getLogger("spade")
#: Collections of more artists than this are drawn as pixels in vector formats.
RASTERISE_ABOVE = 3_000
BORDER = "#d55e00"


@dataclass(frozen=True)
class View:
    """One section: its image and its spots.

    Attributes
    ----------
    name
        Name of the section.
    rows, ids
        Rows of the table, and their instance ids.
    levels
        Resolutions of the image, finest first.
    mpp
        µm per pixel of the finest level.
    centres
        ``(n, 2)`` spot centres (x, y) in µm.
    inside
        ``(n,)``: whether the centre lies in the image.
    diameter, side
        Diameter of a spot (None: there are no spots, patches are tiles of a slide) and side of a patch, in µm.
    size_px
        Side of a patch in pixels once it is read.
    """

    name: str
    rows: Rows
    ids: pd.Index
    levels: list[Level]
    mpp: float
    centres: Floats
    inside: NDArray[np.bool_]
    diameter: float | None
    side: float
    size_px: int

    @property
    def image_um(self) -> tuple[float, float]:
        """Width and height of the image in µm."""
        height, width = self.levels[0].shape
        return width * self.mpp, height * self.mpp

    def frame(self, *, off_image: bool = False) -> Floats:
        """Return the box (x0, y0, x1, y1) in µm around the spots on the image, or around all, with a margin."""
        centres = self.centres if off_image or not self.inside.any() else self.centres[self.inside]
        low, high = centres.min(0), centres.max(0)
        margin = max(self.side, self.diameter or 0) / 2 + 0.02 * float(np.max(high - low))
        return np.concatenate([low - margin, high + margin])

    def patches(self, chosen: Rows) -> NDArray[np.uint8]:
        """Read patches, ``(len(chosen), size_px, size_px, 3)``; ``chosen`` are positions in ``centres``."""
        out = np.empty((len(chosen), self.size_px, self.size_px, 3), dtype=np.uint8)
        centres = self.centres[chosen][:, ::-1] / self.mpp
        for index, batch in iter_patches(self.levels, centres, self.side / self.mpp, self.size_px, 16):
            out[index] = batch
        return out


def views(sample: Sample, patches_key: str) -> list[View]:
    """Return one view per section that has patches."""
    record = patch_record(sample, patches_key)
    drawn = []
    for section in sample.sections:
        if section.region not in record["regions"]:
            logger.warning("%s: no patches in %r, not drawn", section.name, patches_key)
            continue
        facts = record["regions"][section.region]
        placed = placed_patches(sample, section, record)
        drawn.append(
            View(
                section.name,
                section.rows,
                section.ids,
                image_levels(placed.image),
                placed.mpp,
                placed.points,
                placed.inside,
                facts.get("spot_diameter_um"),
                record["size_um"],
                record["size_px"],
            )
        )
    if not drawn:
        raise KeyError(
            f"{sample.name}: the patches in {patches_key!r} belong to {shorten(record['regions'])}, but the table's "
            f"regions are {shorten(section.region for section in sample.sections)}. Run {maker(record)} again."
        )
    return drawn


def spot_views(sample: Sample, image_key: Any, mpp: Any) -> list[View]:
    """Return one view per section, its spots placed as :func:`spade.pp.patches` would place them."""
    settings = PatchSettings(1.0, 1, image_key, mpp, None, _keys.PATCHES)  # of no size: there are no patches
    regions, drawn = [section.region for section in sample.sections], []
    for section in sample.sections:
        placement = place(sample.sdata, section.name, section.region, regions, settings.image_of(section.region))
        rows = join_rows(section, placement)
        scale, diameter = section_scale(sample, section, placement, rows, settings.mpp_of(section.region))
        image = sample.sdata.images[placement.image_key]
        width, height = image_size(image)
        drawn.append(
            View(
                section.name,
                section.rows,
                section.ids,
                image_levels(image),
                scale,
                placement.centres[rows] * scale,
                placement.inside((height, width))[rows],
                diameter,
                diameter,
                0,
            )
        )
    return drawn


def views_of(sample: Sample, patches_key: str, image_key: Any = None, mpp: Any = None) -> list[View]:
    """Return one view per section: by its patches or, before there are any, by its spots and what is stated."""
    if check_text("patches_key", patches_key) != _keys.PATCHES or _keys.read_provenance(sample.table.uns, patches_key):
        check_idle(
            [("image_key", image_key, None), ("mpp", mpp, None)],
            "the patches say on which image they lie, and at which µm/px",
        )
        return views(sample, patches_key)
    return spot_views(sample, image_key, mpp)


def image_view(name: str, image: SlideImage) -> View:
    """Return a view of an image without spots."""
    levels, none = image_levels(image.element), np.zeros(0, dtype=np.int64)
    return View(name, none, pd.Index(none), levels, image.mpp, np.zeros((0, 2)), none.astype(bool), None, 0.0, 0)


def common_frames(frames: list[Floats]) -> list[Floats]:
    """Give all boxes the largest width and height, around their own centres: panels get one size and one scale."""
    half = np.max([box[2:] - box[:2] for box in frames], axis=0) / 2
    return [np.concatenate([middle - half, middle + half]) for middle in ((b[:2] + b[2:]) / 2 for b in frames)]


def draw_tissue(
    ax: Axes, view: View, box: Floats, alpha: float = 1.0, *, border: bool = True, max_px: int = MAX_PX
) -> None:
    """Draw the image within ``box`` (µm) with about ``max_px`` pixels along it, its border and a scale bar."""
    pixels, covered = read_region(view.levels, box / view.mpp, max_px)
    x0, y0, x1, y1 = covered * view.mpp
    if pixels.size:
        ax.imshow(pixels, extent=(x0, x1, y1, y0), alpha=alpha, interpolation="antialiased")
    if border:
        draw_border(ax, view)
    ax.set(xlim=box[[0, 2]], ylim=box[[3, 1]], aspect="equal")
    bare(ax)
    scale_bar(ax)


def draw_border(ax: Axes, view: View) -> None:
    """Outline the image, where its border lies within the panel."""
    ax.add_patch(Rectangle((0, 0), *view.image_um, fill=False, edgecolor=BORDER, linewidth=1.0, linestyle=(0, (4, 2))))


def draw_spots(ax: Axes, view: View, size: float = 1.0, **style: Any) -> Collection:
    """Draw all spots as circles of ``size`` times their true size, and tiles as squares."""
    style["rasterized"] = len(view.centres) > RASTERISE_ABOVE
    spots: Collection
    if view.diameter is None:
        spots = PolyCollection(squares(view.centres, size * view.side), **style)
    else:
        diameters = np.full(len(view.centres), size * view.diameter)
        spots = EllipseCollection(
            diameters,
            diameters,
            np.zeros(len(diameters)),
            units="xy",
            offsets=view.centres,
            offset_transform=ax.transData,
            **style,
        )
    ax.add_collection(spots, autolim=False)
    return spots


def squares(centres: Floats, side: float) -> list[Floats]:
    """Return the corners ``(4, 2)`` of every square."""
    return list(centres[:, None] + side / 2 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]))


def nice_length(most: float) -> float:
    """Return the largest of …, 1, 2, 5, 10, 20, … that is not above ``most``."""
    power = 10.0 ** floor(np.log10(most))
    return power * max(factor for factor in (1, 2, 5) if factor * power <= most * (1 + 1e-9))


def scale_bar(ax: Axes, *, share: float = 0.3, small: bool = False, above: bool = False) -> None:
    """Draw a bar of a round length in µm, at most ``share`` of the panel's width, outside its left corner."""
    x0, x1 = ax.get_xlim()
    length = nice_length(share * (x1 - x0))
    below = blended_transform_factory(ax.transData, ax.transAxes)
    offset = (0.08 if small else 0.035) * (1 if above else -1) + (1 if above else 0)
    ax.plot(
        [x0, x0 + length], [offset] * 2, color=plt.rcParams["text.color"], linewidth=2, solid_capstyle="butt",
        transform=below, clip_on=False, gid="scale bar",
    )  # fmt: skip
    label = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    ax.text(
        x0 + length + (0.04 if small else 0.02) * (x1 - x0), offset, label, fontsize=SMALL if small else TEXT,
        ha="left", va="center", transform=below, gid="scale bar",
    )  # fmt: skip
