"""Squares of a grid: which one a point lies in, those that hold whole bins of a lattice, and sums of counts in them."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from spade.core.arrays import Floats, Rows
from spade.core.spots.lattice import TOLERANCE, spot_pitch

#: A square, by its row and column, and a gene are one number of 63 bits: rows and columns are within ± ``MOST``.
MOST, MOST_GENES = 2**21, 2**19
#: Points lie on a lattice if none is farther from its place than this share of the pitch.
OFF_LATTICE = 0.25


class SquareCounts:
    """Sums of counts by square and gene, piece by piece; only squares and genes with counts take memory."""

    def __init__(self) -> None:
        self._keys, self._sums = np.empty(0, np.int64), np.empty(0, np.int64)
        self._pieces: list[tuple[Rows, Rows]] = []

    def add(self, squares: Rows, genes: Rows, counts: Rows | None = None) -> None:
        """Add counts (None: 1 each) of genes ``(n,)``, by number, in squares ``(n, 2)``, by row and column."""
        keys = _numbers(squares) * MOST_GENES + genes
        self._pieces.append(_summed(keys, np.ones(len(keys), np.int64) if counts is None else counts))
        if sum(len(piece) for piece, _ in self._pieces) > max(len(self._keys), 2**20):
            self._join()

    def _join(self) -> None:
        """Take all pieces into the sums."""
        keys = np.concatenate([self._keys, *(piece for piece, _ in self._pieces)])
        self._keys, self._sums = _summed(keys, np.concatenate([self._sums, *(sums for _, sums in self._pieces)]))
        self._pieces = []

    def sums(self, n_genes: int) -> tuple[Rows, csr_matrix]:
        """Return the squares with counts ``(n, 2)``, by row and column, in order, and their counts ``(n, n_genes)``."""
        self._join()
        numbers, row = np.unique(self._keys // MOST_GENES, return_inverse=True)
        counts = csr_matrix((self._sums, (row, self._keys % MOST_GENES)), shape=(len(numbers), n_genes))
        return _squares(numbers), counts


def _numbers(squares: Rows) -> Rows:
    """Return one number per square, in the order of rows and columns."""
    if len(squares) and int(np.abs(squares).max()) >= MOST:
        raise ValueError(f"a square is {MOST:,} squares or more away from the corner of the image; check the scale.")
    return (squares[:, 0] + MOST) * (2 * MOST) + squares[:, 1] + MOST


def _squares(numbers: Rows) -> Rows:
    """Return row and column of squares with these numbers."""
    return np.stack(np.divmod(numbers, 2 * MOST), 1) - MOST


def _summed(keys: Rows, counts: Rows) -> tuple[Rows, Rows]:
    """Return different keys in order, and the sum of counts of each."""
    if not len(keys):
        return keys, counts
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    return keys[first], np.add.reduceat(counts[order], first)


def summed_rows(squares: Rows, counts: csr_matrix) -> tuple[Rows, Rows, csr_matrix]:
    """Return the different squares ``(m, 2)`` in order, the rows in each, and the sums of their counts.

    ``counts`` are whole numbers ``(n, G)`` of rows that lie in ``squares`` ``(n, 2)``.
    """
    numbers, row, n_rows = np.unique(_numbers(squares), return_inverse=True, return_counts=True)
    kind = np.int32 if counts.data.sum(dtype=np.float64) < 2**31 else np.int64
    selector = csr_matrix((np.ones(len(row), kind), (row, np.arange(len(row)))), shape=(len(numbers), len(row)))
    whole = csr_matrix((counts.data.astype(kind), counts.indices, counts.indptr), shape=counts.shape)
    return _squares(numbers), n_rows, csr_matrix(selector @ whole)


def squares_of(points: Floats, side: float) -> Rows:
    """Return row and column ``(n, 2)`` of the square that each point (x, y) lies in."""
    return np.floor(points[:, ::-1] / side).astype(np.int64)


def lattice_places(points: Floats) -> Rows | None:
    """Return row and column ``(n, 2)`` of points (x, y) on a square lattice along the axes; None if they are on none.

    Any points may be missing; the first row and column are 0.
    """
    pitch = spot_pitch(points)
    if not pitch > 0:
        return None
    steps = (points - points.min(0)) / pitch
    span = np.maximum(np.round(steps.max(0)), 1)
    steps *= np.where(steps.max(0) > 0, span / np.maximum(steps.max(0), 1e-12), 1)  # the pitch is known to rounding
    places = np.round(steps)
    return None if np.abs(steps - places).max() > OFF_LATTICE else places[:, ::-1].astype(np.int64)


def lattice_matrix(places: Rows, points: Floats) -> Floats | None:
    """Return the ``(3, 2)`` matrix from (column, row, 1) of a lattice to (x, y); None if the points do not fit it.

    Rows and columns must be as far apart and at right angles, but for a few per cent by which images are registered:
    the places of a hexagonal lattice, as Visium counts them, are on none of squares.
    """
    order = np.lexsort(places.T)  # so that the order of rows does not change how sums are rounded
    places, points = places[order], points[order]
    grid = np.column_stack([places[:, ::-1], np.ones(len(places))])
    if np.linalg.matrix_rank(grid) < 3:
        return None
    matrix = np.linalg.lstsq(grid, points, rcond=None)[0]
    column, row = matrix[:2]
    short, long = sorted((np.linalg.norm(column), np.linalg.norm(row)))
    square = long <= (1 + TOLERANCE) * short and abs(column @ row) <= TOLERANCE * short * long
    return matrix if square and np.abs(grid @ matrix - points).max() <= OFF_LATTICE * short else None
