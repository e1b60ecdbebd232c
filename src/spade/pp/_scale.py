"""Microns per pixel of a section's image: stated, recorded, or measured on its spots, bins or cells."""

from __future__ import annotations

import logging
import re
from typing import NamedTuple

import numpy as np
import pandas as pd
from spatialdata import SpatialData

from spade import _keys
from spade._samples.placement import SpotPlacement, pixels_of
from spade._samples.sample import Sample, Section
from spade.core.arrays import Rows
from spade.core.errors import warn
from spade.core.spots.lattice import (
    TOLERANCE,
    VISIUM_PITCH_UM,
    check_pitch,
    check_spots,
    spot_pitch,
    visium_mpp,
)
from spade.io._recorded.frames import pixel_growth, scale_factors, systems_of
from spade.io._recorded.scale import known_mpp, recorded_pitch

logger = logging.getLogger("spade")
#: ``obs`` columns with the position of a spot as Space Ranger counts it.
#: End of the name that spatialdata-io gives to the bins of Visium HD, with their side in µm.
BINS = re.compile(r"square_(\d{3})um$")
#: By the name that spatialdata-io gives to its readers: ends of the names of elements whose coordinates are µm.
READERS_IN_UM = {
    "xenium": ("transcripts", "cell_boundaries", "nucleus_boundaries", "cell_circles"),
    "merscope": ("_transcripts", "_polygons"),
}
#: Likewise of the reader of Stereo-seq, of which one unit is a spot of DNA, and where it keeps their distance in nm.
STEREOSEQ, DNA_SPOTS, CELL_BIN_ATTRS = "stereoseq", ("_genes", "cells_circles", "cells_polygons"), "cellBin_attrs"
#: Bins that are measured.
MOST_BINS = 1_000
VISIUM = "spots recognised as Visium"
#: ``obs`` column with the area of cells in µm², as Xenium tables have it.
CELL_AREA = "cell_area"
#: Radii of cells and ``cell_area`` belong together if half of their ratios differ by at most this share.
SPREAD = 0.2


class Scale(NamedTuple):
    """Microns per pixel and the diameter of a spot, or the side of a bin, in µm."""

    mpp: float
    diameter_um: float


def section_scale(
    sample: Sample, section: Section, placement: SpotPlacement, rows: Rows, stated: float | None
) -> Scale:
    """Return the stated, recorded or measured µm/px of a section's image.

    Parameters
    ----------
    sample, section
        The section.
    placement
        Its spots in pixels of the image.
    rows
        Position in ``placement`` of the spot of every row.
    stated
        What the user said; None: nothing.

    Raises
    ------
    ValueError
        Nothing is known, or what is stated or recorded differs by more than 5 % from the pitch of the spots, the side
        of the bins or the area of the cells.
    """
    bins_um, measured, what = _measured(sample, section, placement, rows)
    mpp = known_mpp(sample.sdata, placement.image_key, stated, section.name)
    if mpp is None:
        mpp = _of_earlier_patches(sample, section, placement)
    diameter_px = float(2 * np.median(placement.radii))
    if mpp is None and measured is None:
        mpp = neighbours_mpp(sample.sdata, placement.image_key, placement.coordinate_system)
    if mpp is None and measured is None:
        raise ValueError(
            f"{section.name}: the microns per pixel of images[{placement.image_key!r}] are not known: no reader "
            f"recorded them, and the spots (median diameter {diameter_px:.3g} px, pitch "
            f"{spot_pitch(placement.centres):.3g} px) are not recognised as Visium. Pass mpp= (µm per pixel of that "
            "image at its finest level)."
        )
    if mpp is None:
        mpp = measured
        logger.info("%s: %s; %.4g µm/px", section.name, what, mpp)
    elif (pitch_um := recorded_pitch(sample.sdata, section.region)) is not None:
        check_spots(placement.centres, mpp, pitch_um, section.name)
    elif measured is not None:
        _check(mpp, measured, what, section.name)
    return Scale(float(mpp), bins_um or diameter_px * float(mpp))  # type: ignore[arg-type]


def neighbours_mpp(sdata: SpatialData, image_key: str, system: str) -> float | None:
    """Return the µm/px of an image that other elements in a coordinate system tell, None if they tell nothing.

    Bins of Visium HD tell it by their name, and the elements of a format whose coordinates are µm, or spots of DNA of
    a known distance, by their transformation.
    """
    ends, unit_um = _units(sdata)
    for key, element in (*sdata.shapes.items(), *sdata.points.items()):
        bins = BINS.search(key) if key in sdata.shapes else None
        if system not in systems_of(element) or not (bins or key.endswith(ends)):
            continue
        side = 1.0
        if bins is not None:
            first = element.iloc[:MOST_BINS]
            side = float(np.median(2 * first["radius"] if "radius" in first else np.sqrt(first.geometry.area)))
        growth = float(np.sqrt(np.prod(scale_factors(pixels_of(sdata, element, image_key, system, key)))))
        um = float(bins.group(1)) if bins else unit_um
        logger.info("images[%r]: %.4g µm/px, by the size of %r", image_key, um / (side * growth), key)
        return um / (side * growth)
    return None


def _units(sdata: SpatialData) -> tuple[tuple[str, ...], float]:
    """Return the ends of the names of elements whose coordinates have a known unit, and that unit in µm."""
    reader = str(sdata.attrs.get("spatialdata_io_reader"))
    if reader == STEREOSEQ:
        for table in sdata.tables.values():
            nm = np.ravel(table.uns.get(CELL_BIN_ATTRS, {}).get("resolution", 0))
            if len(nm) and float(nm[0]) > 0:
                return DNA_SPOTS, float(nm[0]) / 1000
    return READERS_IN_UM.get(reader, ()), 1.0


def warn_if_coarse(name: str, image_key: str, mpp: float, wanted_mpp: float) -> None:
    """Warn of an image that shows less detail than patches are to have."""
    if mpp > 2 * wanted_mpp * (1 + 1e-6):
        warn(
            f"{name}: images[{image_key!r}] has {mpp:.3g} µm/px, coarser than twice the wanted {wanted_mpp:.3g} µm/px: "
            f"patches are enlarged {mpp / wanted_mpp:.1f} times and show no finer detail. Use the full-resolution "
            "image if there is one."
        )


def _measured(
    sample: Sample, section: Section, placement: SpotPlacement, rows: Rows
) -> tuple[float | None, float | None, str]:
    """Return the side of the bins in µm (None: no bins), the µm/px that the spots tell, and what they are."""
    obs = sample.table.obs.iloc[section.rows]
    if (name := BINS.search(section.region)) is not None:
        side_um = float(name.group(1))
        side_px = placement.side_px or spot_pitch(placement.centres[rows])
        return side_um, side_um / side_px if side_px > 0 else None, f"bins of {side_um:g} µm by their name"
    if CELL_AREA in obs:
        area = pd.to_numeric(obs[CELL_AREA], errors="coerce").to_numpy(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = np.sqrt(area / np.pi) / placement.radii[rows]
        ratios = ratios[np.isfinite(ratios) & (ratios > 0)]
        if len(ratios):
            low, mpp, high = np.percentile(ratios, [25, 50, 75])
            if high - low <= SPREAD * mpp:
                return None, float(mpp), f"cells whose area in µm² is in obs[{CELL_AREA!r}]"
    array = (
        obs[_keys.ARRAY].apply(pd.to_numeric, errors="coerce").to_numpy(float) if set(_keys.ARRAY) <= set(obs) else None
    )
    visium = visium_mpp(placement.centres[rows], placement.radii[rows], array)
    return None, visium, VISIUM


def _check(mpp: float, measured: float, what: str, section: str) -> None:
    """Raise if the µm/px contradict what was measured."""
    if what == VISIUM:
        check_pitch(VISIUM_PITCH_UM / measured, mpp, VISIUM_PITCH_UM, f"{section} ({what})")
    elif abs(mpp / measured - 1) > TOLERANCE:
        raise ValueError(
            f"{section}: mpp is {mpp:.4g} µm per pixel, but the section has {what}, which have their size at "
            f"{measured:.4g} µm/px. Check mpp= (it is microns per pixel of the image at its finest level, not of "
            "another image) and the transformations, or leave mpp= out."
        )


def _of_earlier_patches(sample: Sample, section: Section, placement: SpotPlacement) -> float | None:
    """Return the µm/px in the record of other patches on this image, as ``spatialdata.concatenate`` keeps it."""
    for facts in sample.table.uns.get(_keys.UNS, {}).values():
        for region, record in facts.get("regions", {}).items():
            ending = section.region.removeprefix(region)  # that concatenating gave to all of a section
            renamed = ending != section.region and region not in sample.sdata.shapes
            same = (section.region == region or renamed) and placement.image_key == record["image"] + ending
            if same and "frame" in record:
                frame = {**record["frame"], "coordinate_system": placement.coordinate_system}
                growth = pixel_growth(frame, sample.sdata.images[placement.image_key])
                return None if growth is None else float(record["mpp"]) * growth
    return None
