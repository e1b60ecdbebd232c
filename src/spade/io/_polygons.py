"""Polygons drawn by hand: checked, and repaired if they cross themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry


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
    for position in np.flatnonzero(damaged):
        shapes[position] = shapely.union_all(_polygons(shapes[position]))
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


def _polygons(geometry: BaseGeometry) -> list[BaseGeometry]:
    """Return the valid polygons that make up a geometry; points and lines are left out."""
    if geometry.geom_type == "Polygon":
        return [geometry] if geometry.is_valid else _polygons(shapely.make_valid(geometry))
    return [polygon for part in getattr(geometry, "geoms", ()) for polygon in _polygons(part)]


def _named(names: Sequence[str], mask: NDArray[np.bool_]) -> str:
    chosen = [names[i] for i in np.flatnonzero(mask).tolist()]
    return ", ".join(chosen[:5]) + (f", … ({len(chosen)} in all)" if len(chosen) > 5 else "")
