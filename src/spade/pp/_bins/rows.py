"""Counts of the rows of a table, cells or bins, in squares."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade import _keys
from spade._checks import plural, shorten
from spade._samples.counts import read_counts
from spade._samples.placement import place
from spade._samples.sample import Sample, Section
from spade.core.arrays import Floats, Rows
from spade.core.spots.squares import lattice_matrix, lattice_places, squares_of, summed_rows
from spade.io._recorded.frames import image_arrays, scale_factors
from spade.pp._bins.frames import frame_of_element
from spade.pp._bins.settings import BinSettings
from spade.pp._bins.squares import Frame, Squares, grid_matrix, nested_matrix
from spade.pp._patches import join_rows
from spade.pp._scale import BINS, section_scale

logger = logging.getLogger("spade")
#: Bins fill squares if a side is a whole number of bins up to this.
WHOLE = 0.1
#: ``obs`` column in which Space Ranger says whether a bin is on tissue.
IN_TISSUE = "in_tissue"
#: What its values mean, in lower case.
ON_TISSUE = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
#: Name that spatialdata-io gives to the bins of Stereo-seq, with their side: points at their upper left corners.
CORNERS = re.compile(r"bin(\d+)_genes")


@dataclass(frozen=True)
class PlacedRows:
    """Cells or bins on an image: their centres (x, y) in pixels, and in their own coordinates, ``(n, 2)``.

    ``places`` are row and column of bins ``(n, 2)`` if the table or the coordinates say them.
    """

    frame: Frame
    pixels: Floats
    own: Floats
    places: Rows | None


def squares_of_rows(sample: Sample, settings: BinSettings) -> Squares:
    """Return the squares in which the cells or bins of a table lie, and the sums of their counts."""
    section = _only_section(sample)
    placed = _placed(sample, section, settings)
    counts = read_counts(sample, settings.layer, smoothed=False)
    on_tissue = _on_tissue(sample, section)
    if settings.from_ == "cells":
        side = settings.size_um / placed.frame.mpp
        matrix, squares = grid_matrix(side), squares_of(placed.pixels, side)
    else:
        matrix, squares = _nested(sample, section, placed, settings.size_um)
    rows = section.rows[on_tissue]
    chosen = counts if len(rows) == sample.table.n_obs else csr_matrix(counts[rows])
    places, n_rows, sums = summed_rows(squares[on_tissue], chosen)
    var = sample.table.var.copy()
    var.index = var.index.astype(str)
    return Squares(placed.frame, matrix, places, sums, var, n_rows)


def _only_section(sample: Sample) -> Section:
    if len(sample.sections) != 1:
        regions = [section.region for section in sample.sections]
        raise ValueError(
            f"{sample.name}: tables[{sample.table_key!r}] annotates {plural(len(regions), 'region')}, "
            f"{shorten(regions)}, but one is binned at a time. Take the sections apart with "
            "sdata.filter_by_coordinate_system."
        )
    return sample.sections[0]


def _placed(sample: Sample, section: Section, settings: BinSettings) -> PlacedRows:
    """Return where the rows of a section lie."""
    sdata, region = sample.sdata, section.region
    if region in sdata.shapes:
        placement = place(sdata, section.name, region, [region], settings.image_key)
        rows = join_rows(section, placement)
        mpp = section_scale(sample, section, placement, rows, settings.mpp).mpp
        own = sdata.shapes[region].geometry.centroid
        frame = Frame(placement.image_key, placement.coordinate_system, mpp)
        centres = np.column_stack([own.x, own.y])[rows]
        return PlacedRows(frame, placement.centres[rows], centres, _array_places(sample, section))
    if region in sdata.points:
        points: Any = sdata.points[region]
        table = points[["x", "y"]].compute()
        ids, own = pd.Index(table.index), table.to_numpy(np.float64)
        element, what = points, f"points[{region!r}]"
    elif region in sdata.labels:
        element, what = sdata.labels[region], f"labels[{region!r}]"
        ids, own = _centres_of_labels(image_arrays(element)[0].transpose("y", "x").data)
    else:
        known = shorten([*sdata.shapes, *sdata.points, *sdata.labels]) or "none"
        raise KeyError(f"{sample.name}: the table annotates {region!r}, which is not there; there are: {known}.")
    rows = ids.get_indexer(section.ids)
    if (rows < 0).any():
        raise KeyError(
            f"{section.name}: {int((rows < 0).sum())} of {len(rows)} rows of the table are not among {what}, such as "
            f"{shorten(section.ids[rows < 0])}. Rows are joined by instance id; ids there are: {shorten(ids, 3)}."
        )
    frame, matrix = frame_of_element(sample, element, what, settings)
    own, places = own[rows], _array_places(sample, section)
    if (side := _side_of_corners(region, own)) is not None:
        own, places = own + side / 2, np.floor(own[:, ::-1] / side).astype(np.int64)
    return PlacedRows(frame, own @ matrix[:2, :2].T + matrix[:2, 2], own, places)


def _side_of_corners(region: str, own: Floats) -> int | None:
    """Return the side of bins of Stereo-seq in their own coordinates; None for others, which lie at their centres."""
    named = CORNERS.match(region)
    side = int(named.group(1)) if named else 0
    return side if side and not (own % side).any() else None


def _centres_of_labels(labels: da.Array | NDArray[np.integer]) -> tuple[pd.Index, Floats]:
    """Return the labels of an image other than 0, and their centres (x, y); the image is read block by block."""
    blocks = da.asarray(labels)
    sums = pd.DataFrame({"x": [], "y": [], "n": []}, index=pd.Index([], dtype=np.int64))
    starts = [np.r_[0, np.cumsum(sizes)[:-1]] for sizes in blocks.chunks]
    for i, y0 in enumerate(starts[0]):
        for j, x0 in enumerate(starts[1]):
            block = np.asarray(blocks.blocks[i, j])
            y, x = np.nonzero(block)
            part = pd.DataFrame({"label": block[y, x], "x": x + x0 + 0.5, "y": y + y0 + 0.5, "n": 1})
            sums = sums.add(part.groupby("label").sum(), fill_value=0)
    return pd.Index(sums.index), sums[["x", "y"]].to_numpy() / sums[["n"]].to_numpy()


def _on_tissue(sample: Sample, section: Section) -> NDArray[np.bool_]:
    """Return which rows are on tissue: all, unless ``obs["in_tissue"]`` says that some are not."""
    if IN_TISSUE not in sample.table.obs:
        return np.ones(len(section.rows), dtype=bool)
    codes, values = pd.factorize(sample.table.obs[IN_TISSUE].iloc[section.rows], use_na_sentinel=False)
    meant = [ON_TISSUE.get(str(value).lower()) for value in values]
    if None in meant:
        raise ValueError(
            f"{section.name}: obs[{IN_TISSUE!r}] holds {values[meant.index(None)]!r}, which does not say whether a bin "
            "is on tissue; expected 1 or 0, or True or False."
        )
    on = np.array(meant, dtype=bool)[codes]
    if not on.all():
        logger.info("%s: %d of %d bins are not on tissue and are left out", section.name, int((~on).sum()), len(on))
    if not on.any():
        raise ValueError(f"{section.name}: obs[{IN_TISSUE!r}] is 0 for all {len(on)} bins; none is on tissue.")
    return on


def _nested(sample: Sample, section: Section, placed: PlacedRows, size_um: float) -> tuple[Floats, Rows]:
    """Return the matrix of squares that hold whole bins, and the square of every row."""
    places = lattice_places(placed.own) if placed.places is None else placed.places
    lattice = None if places is None else lattice_matrix(places, placed.pixels)
    if places is None or lattice is None:
        raise ValueError(
            f"{section.name}: the {len(placed.own)} bins of {section.region!r} do not lie on a square lattice, in "
            'several rows and columns. If they are cells or spots, pass from_="cells".'
        )
    named = BINS.search(section.region)
    bin_um = float(named.group(1)) if named else float(np.mean(scale_factors(lattice.T))) * placed.frame.mpp
    factor = round(size_um / bin_um)
    if factor < 1 or abs(size_um / bin_um - factor) > WHOLE:
        raise ValueError(
            f"{section.name}: size_um={size_um:g}: squares must hold whole bins, which are {bin_um:.4g} µm large here. "
            f"Choose a multiple of that, such as {max(factor, 1) * bin_um:.4g}."
        )
    return nested_matrix(lattice, factor), places // factor


def _array_places(sample: Sample, section: Section) -> Rows | None:
    """Return row and column of the bins as Space Ranger counts them, None if the table does not say."""
    obs = sample.table.obs
    if not set(_keys.ARRAY) <= set(obs):
        return None
    places = obs[_keys.ARRAY].iloc[section.rows].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    return places.astype(np.int64) if np.isfinite(places).all() and (places == np.round(places)).all() else None
