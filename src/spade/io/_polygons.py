"""Polygons drawn by hand: checked, and repaired if they cross themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from spade.core.arrays import Floats

#: An outline that crosses itself more often takes minutes to repair, and is none.
MAX_CROSSINGS = 1000
#: Pairs of segments that are compared to count crossings.
MAX_PAIRS = 20_000_000


def checked_areas(
    geometries: Sequence[BaseGeometry | None] | NDArray[np.object_], names: Sequence[str], source: str
) -> tuple[NDArray[np.object_], int]:
    """Return polygons and multipolygons that are valid, and how many were repaired to be so.

    Parameters
    ----------
    geometries
        Polygons, multipolygons and collections that hold some.
    names
        Name of each geometry in messages.
    source
        Where they come from, for messages.
    """
    shapes = np.array(geometries, dtype=object)
    empty = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    if empty.any():
        raise ValueError(
            f"{source}: {int(empty.sum())} of {len(shapes)} geometries are empty: {_named(names, empty)}. Remove them."
        )
    flat = shapely.get_dimensions(shapes) < 2
    if flat.any():
        raise ValueError(
            f"{source}: {int(flat.sum())} of {len(shapes)} geometries have no area ({count_kinds(shapes[flat])}), such "
            f"as {_named(names, flat)}. Labels need polygons; leave the others out."
        )
    coordinates, owner = shapely.get_coordinates(shapes, return_index=True)
    unbounded = np.zeros(len(shapes), dtype=bool)
    unbounded[owner[~np.isfinite(coordinates).all(axis=1)]] = True
    if unbounded.any():
        raise ValueError(
            f"{source}: {int(unbounded.sum())} of {len(shapes)} geometries have coordinates that are NaN or infinite: "
            f"{_named(names, unbounded)}. Draw or export them again."
        )
    damaged = ~shapely.is_valid(shapes) | (shapely.get_type_id(shapes) == shapely.GeometryType.GEOMETRYCOLLECTION)
    for position in np.flatnonzero(damaged).tolist():
        shapes[position] = shapely.union_all(_polygons(shapes[position], f"{source}: {names[position]}"))
    vanished = shapely.is_empty(shapes)
    if vanished.any():
        raise ValueError(
            f"{source}: {int(vanished.sum())} of {len(shapes)} geometries are empty, as they enclose no area: "
            f"{_named(names, vanished)}. Remove them."
        )
    return shapes, int(damaged.sum())


def count_kinds(geometries: NDArray[np.object_]) -> str:
    """Return the number of geometries of each kind, for a message."""
    counts = Counter(geometry.geom_type for geometry in geometries)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def _polygons(geometry: BaseGeometry, name: str) -> list[BaseGeometry]:
    """Return the valid polygons that make up a geometry; points and lines are left out."""
    if geometry.geom_type != "Polygon":
        return [polygon for part in getattr(geometry, "geoms", ()) for polygon in _polygons(part, name)]
    if geometry.is_valid:
        return [geometry]
    if (n := n_crossings(geometry)) > MAX_CROSSINGS:
        raise ValueError(
            f"{name} crosses itself about {n:,} times, which is not an outline of an area; at most {MAX_CROSSINGS:,} "
            "crossings are repaired. Draw or export it again."
        )
    return _polygons(shapely.make_valid(geometry), name)


def n_crossings(polygon: shapely.Polygon) -> int:
    """Return how often the outline of a polygon meets itself: exact up to a few thousand points, else estimated."""
    rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
    start, end = (np.concatenate([ring[side] for ring in rings]) for side in (slice(-1), slice(1, None)))
    moves = (start != end).any(axis=1)
    start, end = start[moves], end[moves]
    n = len(start)
    if not n:
        return 0
    low, high = np.minimum(start, end), np.maximum(start, end)
    sample = np.unique(np.linspace(0, n - 1, min(n, max(1, MAX_PAIRS // n))).astype(np.int64))
    count = 0
    for i in sample.tolist():
        near = ((low <= high[i]) & (high >= low[i])).all(axis=1)
        a, b = start[near], end[near]
        apart = _turn(start[i], end[i], a) * _turn(start[i], end[i], b)
        across = _turn(a, b, start[i]) * _turn(a, b, end[i])
        count += int(((apart <= 0) & (across <= 0)).sum()) - 3  # itself and its two neighbours
    return max(0, count) * n // len(sample) // 2


def _turn(a: Floats, b: Floats, c: Floats) -> NDArray[np.float64]:
    """Return the side of the line from a to b that c lies on, by sign."""
    u, v = b - a, c - a
    side: NDArray[np.float64] = np.sign(u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0])
    return side


def _named(names: Sequence[str], mask: NDArray[np.bool_]) -> str:
    chosen = [names[i] for i in np.flatnonzero(mask).tolist()]
    return ", ".join(chosen[:5]) + (f", … ({len(chosen)} in all)" if len(chosen) > 5 else "")
