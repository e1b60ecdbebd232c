"""Counts of transcripts in squares, read piece by piece."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from spatialdata import SpatialData

from spade._checks import shorten
from spade._said.progress import progress_bar
from spade._samples.sample import Opened
from spade.core.arrays import Rows
from spade.core.errors import warn
from spade.core.spots.squares import MOST_GENES, SquareCounts, squares_of
from spade.pp._bins.frames import frame_of_element
from spade.pp._bins.settings import MIN_QV, BinSettings
from spade.pp._bins.squares import Squares, grid_matrix
from spade.pp._genes.common import is_control

logger = logging.getLogger("spade")
#: Column of Xenium with the quality of a transcript, as Phred score.
QUALITY = "qv"
ATTRS = "spatialdata_attrs"


def squares_of_points(sample: Opened, settings: BinSettings) -> tuple[Squares, str]:
    """Return the squares in which transcripts lie, with their counts, and the name of the points."""
    key = _points_key(sample.sdata, settings.points_key, sample.name)
    points: Any = sample.sdata.points[key]
    columns = _columns(points, settings, f"{sample.name}: points[{key!r}]")
    frame, matrix = frame_of_element(sample, points, f"points[{key!r}]", settings)
    side = settings.size_um / frame.mpp
    genes, sums, left_out = _Genes(), SquareCounts(), _LeftOut()
    named = points[list(dict.fromkeys(columns.values()))]
    n_parts = points.npartitions
    for i in progress_bar(range(n_parts), shown=n_parts > 1, desc=f"{sample.name}: {key}", unit="part"):
        part = named.get_partition(i).compute()
        kept, numbers = _readable(part, columns, settings, genes, left_out)
        xy = part[["x", "y"]].to_numpy(np.float64)[kept] @ matrix[:2, :2].T + matrix[:2, 2]
        counts = None if "count" not in columns else _whole(part[columns["count"]].to_numpy()[kept], sample.name, key)
        sums.add(squares_of(xy, side), numbers[kept], counts)
    left_out.tell(sample.name, key, settings)
    places, counts = sums.sums(len(genes.names))
    order = np.argsort(genes.names)
    var = pd.DataFrame(index=pd.Index(np.array(genes.names, dtype=object)[order]))
    return Squares(frame, grid_matrix(side), places, counts[:, order], var, None), key


def _points_key(sdata: SpatialData, points_key: str | None, name: str) -> str:
    """Return the points that were named, or the only ones that name genes."""
    there = shorten(sdata.points) or "none"
    if points_key is not None:
        if points_key not in sdata.points:
            raise KeyError(f"{name}: points_key={points_key!r} is not there; points: {there}.")
        return points_key
    named = [key for key, points in sdata.points.items() if points.attrs.get(ATTRS, {}).get("feature_key")]
    candidates = named or list(sdata.points)
    if len(candidates) != 1:
        raise ValueError(
            f"{name}: {'several' if candidates else 'no'} points may be the transcripts; points: {there}. "
            + ("Choose with points_key=." if candidates else 'Bin cells or smaller bins (from_="cells", "bins").')
        )
    return candidates[0]


def _columns(points: Any, settings: BinSettings, what: str) -> dict[str, str]:
    """Return the columns to read: x, y, gene and, where they are there or asked for, count and quality."""
    gene = settings.feature_key or points.attrs.get(ATTRS, {}).get("feature_key") or ""
    columns = {"x": "x", "y": "y", "gene": str(gene)}
    if settings.count_key is not None:
        columns["count"] = settings.count_key
    if settings.min_qv is not None and QUALITY in points.columns:
        columns["quality"] = QUALITY
    elif settings.min_qv not in (None, MIN_QV):
        raise KeyError(
            f"{what}: min_qv={settings.min_qv:g} reads a column {QUALITY!r}, which is not among the columns: "
            f"{shorten(points.columns, 20)}. Name the quality so, as Xenium does, or leave min_qv= out."
        )
    for argument, name in (("feature_key", "gene"), ("count_key", "count")):
        if name in columns and columns[name] not in points.columns:
            raise KeyError(
                f"{what}: {argument}={columns[name]!r} is not among the columns: {shorten(points.columns, 20)}. Name "
                f"the one with {'the gene of a transcript' if name == 'gene' else 'counts'}."
            )
    return columns


class _Genes:
    """The genes met so far, numbered as they come; those of control probes have no number."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._number: dict[str, int] = {}

    def numbers(self, column: pd.Series) -> Rows:
        """Return the number of the gene of every row, −1 for control probes, −2 where there is no name."""
        codes, names = pd.factorize(column.astype(object))
        own = [self._of(name.decode() if isinstance(name, bytes) else str(name)) for name in names]
        return np.array([*own, -2], dtype=np.int64)[codes]

    def _of(self, name: str) -> int:
        if name not in self._number:
            self._number[name] = -1 if is_control(name) else len(self.names)
            if self._number[name] >= 0:
                self.names.append(name)
            if len(self.names) > MOST_GENES:
                raise ValueError(f"feature_key= names more than {MOST_GENES:,} genes; is it the right column?")
        return self._number[name]


class _LeftOut:
    """How many transcripts are left out, and why."""

    def __init__(self) -> None:
        self.n = self.nameless = self.controls = self.poor = 0

    def tell(self, name: str, key: str, settings: BinSettings) -> None:
        """Log what is left out by rule, and warn of transcripts without a place or a gene."""
        if self.nameless:
            warn(
                f"{name}: {self.nameless:,} of {self.n:,} points[{key!r}] have no gene or no position, and are left "
                "out."
            )
        for n, what in ((self.controls, "control probes"), (self.poor, f"quality below min_qv={settings.min_qv}")):
            if n:
                logger.info("%s: %d of %d transcripts left out: %s", name, n, self.n, what)


def _readable(
    part: pd.DataFrame, columns: dict[str, str], settings: BinSettings, genes: _Genes, left_out: _LeftOut
) -> tuple[np.ndarray, Rows]:
    """Return which rows count, and the number of the gene of each."""
    numbers = genes.numbers(part[columns["gene"]])
    placed = np.isfinite(part[["x", "y"]].to_numpy(np.float64)).all(1)
    good = np.ones(len(part), dtype=bool)
    if "quality" in columns:
        good = part[columns["quality"]].to_numpy(np.float64) >= settings.min_qv
    named, gene = (numbers != -2) & placed, numbers >= 0
    left_out.n += len(part)
    left_out.nameless += int((~named).sum())
    left_out.controls += int((named & ~gene).sum())
    left_out.poor += int((named & gene & ~good).sum())
    return named & gene & good, numbers


def _whole(counts: np.ndarray, name: str, key: str) -> Rows:
    """Return counts as whole numbers; raise if they are none."""
    values = np.asarray(counts, dtype=np.float64)
    if not np.isfinite(values).all() or (values < 0).any() or (values != np.round(values)).any():
        odd = values[~(np.isfinite(values) & (values >= 0) & (values == np.round(values)))][0]
        raise ValueError(
            f"{name}: points[{key!r}]: count_key= holds {odd:g}, but counts are whole numbers of at least 0."
        )
    return values.astype(np.int64)
