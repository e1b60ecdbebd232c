"""GeoJSON as QuPath writes it: polygons with the classes that annotators gave them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from spade._checks import plural, shorten
from spade.io._bytes import MAX_BYTES, check_file, read_json
from spade.io._files.damaged import reading
from spade.io._polygons import checked_areas

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

logger = logging.getLogger("spade")
SUFFIXES = (".geojson", ".json")
NO_AREAS = ("Point", "MultiPoint", "LineString", "MultiLineString")
#: Object types by the ids that QuPath gave to all objects of a kind before it knew ``objectType``.
OLD_IDS = {
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tma_core",
    "PathRootObject": "root",
}


def read_polygons(
    path: Path,
    *,
    object_types: Collection[str] | None = None,
    other_geometry: str = "error",
    most: int = MAX_BYTES,
    argument: str = "path",
) -> tuple[GeoDataFrame, int]:
    """Return the polygons of a file (``label``, ``name``, ``object_type``, ``geometry``) and how many were repaired."""
    source = f"{argument}={str(path)!r}"
    check_file(path, argument)
    with reading(path, "GeoJSON", argument):
        features = read_features(path, argument, most)
        if not features:
            raise ValueError(f"{source} holds no features. Annotate the image, or leave the file out.")
        return _polygons(features, path, source, object_types=object_types, other_geometry=other_geometry)


def _polygons(
    features: list[dict[str, Any]],
    path: Path,
    source: str,
    *,
    object_types: Collection[str] | None,
    other_geometry: str,
) -> tuple[GeoDataFrame, int]:
    """Return the polygons of features and how many were repaired."""
    from geopandas import GeoDataFrame

    types = [_object_type(feature) for feature in features]
    chosen = _of_type(types, object_types, source)
    names = {i: _name(i, features[i]) for i in chosen}
    kinds = {i: _kind(features[i], names[i], source) for i in chosen}
    no_areas = [kind for kind in kinds.values() if kind in NO_AREAS]
    listed = _counts(no_areas)
    if no_areas and other_geometry == "error":
        raise ValueError(
            f"{source}: {len(no_areas)} of {plural(len(kinds), 'feature')} have no area ({listed}), but labels need "
            "polygons. Leave them out with sp.io.read_annotations(path, other_geometry='skip'), or read some of its "
            f"object_types= (there are {_counts(types)})."
        )
    if no_areas:
        logger.info(
            "%s: left out %d of %d features that have no area (%s)", path.name, len(no_areas), len(kinds), listed
        )
    rows = [i for i in chosen if kinds[i] not in NO_AREAS]
    if not rows:
        raise ValueError(f"{source}: no feature is an area ({listed}).")
    built = [_shape(features[i]["geometry"], names[i], source) for i in rows]
    areas, _ = checked_areas([shape for shape, _ in built], [names[i] for i in rows], source)
    # a polygon that was closed here and repaired there counts once
    repaired = sum(closed or area is not shape for (shape, closed), area in zip(built, areas, strict=True))
    columns = {
        "label": [_label(features[i]) for i in rows],
        "name": [_text(_properties(features[i]).get("name")) for i in rows],
        "object_type": [types[i] for i in rows],
    }
    data = {key: np.array(values, dtype=object) for key, values in columns.items()}
    return GeoDataFrame(data, geometry=list(areas)), repaired


def read_features(path: Path, argument: str, most: int = MAX_BYTES) -> list[dict[str, Any]]:
    """Return the features of a FeatureCollection, a list or a single Feature."""
    source, data = f"{argument}={str(path)!r}", read_json(path, argument, most)
    kind = data.get("type") if isinstance(data, dict) else None
    if kind == "FeatureCollection":
        data = data.get("features")
    elif kind == "Feature":
        data = [data]
    if not isinstance(data, list) or not all(isinstance(f, dict) and f.get("type") == "Feature" for f in data):
        got = f"type {kind!r}" if kind else f"keys {shorten(data)}" if isinstance(data, dict) else type(data).__name__
        raise ValueError(
            f"{source} is JSON but holds no GeoJSON features (got {got}); expected a FeatureCollection, a list of "
            "Features or one Feature, as QuPath exports them."
        )
    return data


def read_areas(path: Path, argument: str) -> tuple[list[dict[str, Any]], list[BaseGeometry]]:
    """Return properties and geometries, as they are drawn, of the features of a file that are areas."""
    with reading(path, "GeoJSON", argument):
        features = read_features(path, argument)
        source = f"{argument}: {str(path)!r}"
        names = [_name(i, feature) for i, feature in enumerate(features)]
        areas = [i for i, name in enumerate(names) if _kind(features[i], name, source) not in NO_AREAS]
        shapes = [_shape(features[i]["geometry"], names[i], source)[0] for i in areas]
        return [_properties(features[i]) for i in areas], shapes


def _of_type(types: list[str | None], wanted: Collection[str] | None, source: str) -> list[int]:
    """Return the positions of the features of the wanted types."""
    if wanted is None:
        return list(range(len(types)))
    unknown = sorted(set(wanted) - {kind for kind in types if kind is not None})
    if unknown or not wanted:
        what = f"names {shorten(unknown)}, which the file does not hold" if unknown else "is empty"
        raise ValueError(f"{source}: object_types= {what}; there are {_counts(types)}.")
    chosen = [i for i, kind in enumerate(types) if kind in wanted]
    logger.info("%s: read %d of %d features, those of object_types=%s", source, len(chosen), len(types), sorted(wanted))
    return chosen


def _counts(kinds: Iterable[str | None]) -> str:
    """Return the number of each kind, for a message."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(map(str, kinds)).items()))


def _properties(feature: dict[str, Any]) -> dict[str, Any]:
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def _object_type(feature: dict[str, Any]) -> str | None:
    properties = _properties(feature)
    stated = _text(properties.get("objectType")) or _text(properties.get("object_type"))
    return stated.lower() if stated else OLD_IDS.get(str(feature.get("id")))


def _label(feature: dict[str, Any]) -> str | None:
    """Return the class of an object, else its name."""
    properties = _properties(feature)
    given = properties.get("classification")
    if isinstance(given, dict):
        parts = given.get("names")  # newer versions write a derived class as a list
        given = ": ".join(map(str, parts)) if isinstance(parts, list) else given.get("name")
    return _text(given) or _text(properties.get("name"))


def _text(value: object) -> str | None:
    if value is None or isinstance(value, (dict, list)):
        return None
    return str(value).strip() or None


def _name(position: int, feature: dict[str, Any]) -> str:
    label = _label(feature)
    return f"feature {position}" + (f" ({label})" if label else "")


def _kind(feature: dict[str, Any], name: str, source: str, *, nested: bool = False) -> str:
    """Return the kind of a feature's geometry; a collection without areas counts as its first part."""
    geometry = feature.get("geometry")
    if geometry is None:
        raise ValueError(f"{source}: {name} has an empty geometry. Remove it.")
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind == "GeometryCollection" and not nested:
        parts = _list(geometry.get("geometries"), name, source)
        inner = [_kind({"geometry": part}, name, source, nested=True) for part in parts]
        return inner[0] if inner and all(part in NO_AREAS for part in inner) else kind
    if kind not in (*NO_AREAS, "Polygon", "MultiPolygon"):
        raise ValueError(f"{source}: {name} has a geometry of type {kind!r}, which GeoJSON does not have.")
    return str(kind)


def _shape(geometry: dict[str, Any], name: str, source: str) -> tuple[BaseGeometry, bool]:
    """Build a geometry in x and y; also return whether rings had to be closed or parts were left out."""
    if geometry["type"] == "GeometryCollection":
        areas = [part for part in geometry["geometries"] if part["type"] not in NO_AREAS]
        return shapely.GeometryCollection([_shape(part, name, source)[0] for part in areas]), True
    coordinates = _list(geometry.get("coordinates"), name, source)
    if geometry["type"] == "Polygon":
        return _polygon(coordinates, name, source)
    parts = [_polygon(_list(part, name, source), name, source) for part in coordinates]
    return shapely.MultiPolygon([shape for shape, _ in parts]), any(repaired for _, repaired in parts)


def _polygon(rings: list[Any], name: str, source: str) -> tuple[BaseGeometry, bool]:
    points = [_points(ring, name, source) for ring in rings]
    closed = [ring if np.array_equal(ring[:1], ring[-1:]) else np.vstack([ring, ring[:1]]) for ring in points]
    if not closed or len(closed[0]) < 4:
        return shapely.Polygon(), False
    holes = [hole for hole in closed[1:] if len(hole) > 3]
    repaired = len(holes) < len(closed) - 1 or any(a is not b for a, b in zip(points, closed, strict=True))
    return shapely.Polygon(closed[0], holes), repaired


def _points(ring: object, name: str, source: str) -> np.ndarray:
    """Return the points of a ring ``(n, 2)``; a third coordinate is left out."""
    try:
        points = np.array(_list(ring, name, source))
    except ValueError as error:
        raise ValueError(f"{source}: {name} has points of unequal length. Export the file again.") from error
    if points.size == 0:
        return np.empty((0, 2))
    if points.ndim != 2 or points.shape[1] < 2 or points.dtype.kind not in "iuf":
        raise ValueError(f"{source}: {name} has coordinates that are not lists of numbers x, y. Export the file again.")
    if not np.isfinite(points).all():
        raise ValueError(f"{source}: {name} has coordinates that are NaN or infinite. Draw or export it again.")
    return points[:, :2].astype(np.float64)


def _list(value: object, name: str, source: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{source}: {name} has no list of coordinates. Export the file again.")
    return value
