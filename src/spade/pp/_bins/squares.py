"""The squares of a sample: where they lie on its image, and what was counted in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade.core.arrays import Floats, Rows
from spade.io._recorded.frames import scale_factors

#: Corners of a square whose centre is 0, in the order of its outline.
CORNERS = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])


@dataclass(frozen=True)
class Frame:
    """Which image the squares lie on, and its µm/px."""

    image_key: str
    coordinate_system: str
    mpp: float


@dataclass(frozen=True)
class Squares:
    """Squares with counts.

    Attributes
    ----------
    frame
        The image.
    matrix
        ``(3, 2)``, from (column, row, 1) to the pixels (x, y) of the centre.
    places
        Row and column of every square ``(n, 2)``.
    counts
        Whole numbers ``(n, G)``.
    var
        The genes, by name, with the columns that the source has.
    n_sources
        How many cells or bins lie in each square; None for transcripts.
    """

    frame: Frame
    matrix: Floats
    places: Rows
    counts: csr_matrix
    var: pd.DataFrame
    n_sources: Rows | None

    @property
    def centres(self) -> Floats:
        """Centres (x, y) in pixels ``(n, 2)``."""
        return np.asarray(self._pixels(self.places[:, ::-1].astype(float)))

    @property
    def polygons(self) -> NDArray[np.object_]:
        """Outlines in pixels."""
        return np.asarray(shapely.polygons(self._pixels(self.places[:, None, ::-1] + CORNERS)))

    def _pixels(self, points: Floats) -> Floats:
        return points @ self.matrix[:2] + self.matrix[2]

    @property
    def side_um(self) -> float:
        """Side of a square as it lies on the image."""
        return float(np.sqrt(np.prod(scale_factors(self.matrix.T)))) * self.frame.mpp

    def at_least(self, min_counts: int) -> NDArray[np.bool_]:
        """Whether a square has so many counts."""
        return np.asarray(self.counts.sum(1)).ravel() >= min_counts


def grid_matrix(side: float) -> Floats:
    """Return the matrix of a grid of squares that begins in the upper left corner of the image."""
    return np.array([[side, 0], [0, side], [side / 2, side / 2]])


def nested_matrix(lattice: Floats, factor: int) -> Floats:
    """Return the matrix of squares of ``factor`` × ``factor`` bins on a lattice with this matrix."""
    middle = (factor - 1) / 2
    return np.vstack([lattice[:2] * factor, lattice[2] + middle * lattice[:2].sum(0)])
