"""Outlines of a mask as polygons, and the share of tiles that they cover; geometry only."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from spade.core.arrays import Floats
from spade.pp._labels.areas import cover, unite

#: Outlines may be moved by this many pixels of the mask, so that they are lines and no stairs.
TOLERANCE = 0.75
#: Outlines of more points are cut into parts before they are compared with tiles.
MOST_POINTS = 128


def outlines(mask: NDArray[np.bool_]) -> NDArray[np.object_]:
    """Return the polygons of the pieces of a mask, with their holes, in its pixels; the largest first.

    Pixels that touch at a corner alone are of different pieces.
    """
    framed = np.pad(mask, 1)
    y, x = np.nonzero(framed[1:, 1:-1] != framed[:-1, 1:-1])
    across = np.stack([np.column_stack([x, y]), np.column_stack([x + 1, y])], axis=1)
    y, x = np.nonzero(framed[1:-1, 1:] != framed[1:-1, :-1])
    along = np.stack([np.column_stack([x, y]), np.column_stack([x, y + 1])], axis=1)
    edges = shapely.linestrings(np.concatenate([across, along]).astype(np.float64))
    faces = shapely.get_parts(shapely.polygonize(edges))
    inside = np.floor(shapely.get_coordinates(shapely.point_on_surface(faces))).astype(np.int64)
    pieces = shapely.simplify(faces[mask[inside[:, 1], inside[:, 0]]], TOLERANCE)
    return np.asarray(pieces[np.argsort(-shapely.area(pieces), kind="stable")])


def covered_share(squares: NDArray[np.object_], areas: NDArray[np.object_]) -> Floats:
    """Return the share of each square that areas cover, which may overlap each other."""
    united, _ = unite(areas, np.zeros(len(areas), dtype=np.int64))
    parts = np.array([part for area in united for part in _cut(area)], dtype=object)
    pairs = cover(squares, parts, np.zeros(len(parts), dtype=np.int64))
    share = np.zeros(len(squares))
    share[pairs.patch] = np.minimum(pairs.share, 1)
    return share


def _cut(area: shapely.Geometry) -> list[shapely.Geometry]:
    """Cut an area in halves until no part has many points: what crosses a tile is then found quickly."""
    if shapely.get_num_coordinates(area) <= MOST_POINTS:
        return [area]
    x0, y0, x1, y1 = shapely.bounds(area)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    wide = x1 - x0 > y1 - y0
    boxes = [(x0, y0, x, y1), (x, y0, x1, y1)] if wide else [(x0, y0, x1, y), (x0, y, x1, y1)]
    pieces = shapely.get_parts(shapely.intersection(area, [shapely.box(*half) for half in boxes]))
    return [part for piece in pieces if shapely.get_dimensions(piece) == 2 for part in _cut(piece)]
