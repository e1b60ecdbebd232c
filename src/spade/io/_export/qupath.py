"""GeoJSON that QuPath reads: one object per polygon, with its class and measurements."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import shapely
from numpy.typing import NDArray

from spade._said.progress import progress_bar
from spade.core.files import write_atomically

#: Fewer objects are written without a bar.
MANY = 4096


@dataclass(frozen=True)
class Objects:
    """Polygons to write.

    Attributes
    ----------
    polygons
        (Multi)polygons ``(n,)`` in pixels of the image.
    ids
        What each is called; it is written as ``metadata["id"]``, because a name would be read as a label.
    labels
        Class of each, ``""`` if it has none.
    colours
        Red, green and blue of classes that have a colour.
    measured
        Blocks of numbers ``(n, k)``; those that are not finite are left out.
    names
        Names of all their columns.
    """

    polygons: NDArray[np.object_]
    ids: Sequence[str]
    labels: Sequence[str]
    colours: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    measured: Sequence[NDArray[np.floating]] = ()
    names: Sequence[str] = ()


def write_objects(path: Path, objects: Objects, object_type: str) -> None:
    """Write objects as a FeatureCollection, piece by piece; the file is complete or as it was. ``.gz`` is gzipped."""

    def write(part: Path) -> None:
        if path.suffix.lower() == ".gz":
            with part.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as zipped:
                for text in _texts(objects, object_type, path.name):
                    zipped.write(text.encode())
        else:
            file: TextIO
            with part.open("w", encoding="utf-8", newline="\n") as file:
                for text in _texts(objects, object_type, path.name):
                    file.write(text)

    write_atomically(path, write)


def _texts(objects: Objects, object_type: str, what: str) -> Iterator[str]:
    """Return the text of the file in pieces."""
    yield '{"type": "FeatureCollection", "features": ['
    separator = "\n"
    for i in progress_bar(range(len(objects.polygons)), shown=len(objects.polygons) >= MANY, desc=what, unit="object"):
        yield f"{separator}{_feature(objects, i, object_type)}"
        separator = ",\n"
    yield "\n]}\n"


def _feature(objects: Objects, i: int, object_type: str) -> str:
    properties: dict[str, Any] = {"objectType": object_type}
    if label := objects.labels[i]:
        properties["classification"] = {"name": label}
        if label in objects.colours:
            properties["classification"]["color"] = objects.colours[label]
    if objects.names:
        values = zip(objects.names, chain.from_iterable(_plain(block[i]) for block in objects.measured), strict=True)
        properties["measurements"] = {name: value for name, value in values if math.isfinite(value)}
    if objects.ids[i]:
        properties["metadata"] = {"id": objects.ids[i]}
    feature = {"type": "Feature", "geometry": _geometry(objects.polygons[i]), "properties": properties}
    return json.dumps(feature, ensure_ascii=False, allow_nan=False)


def _plain(row: NDArray[np.floating]) -> list[float]:
    """Return numbers; those of single precision as the shortest ones that stand for them."""
    return row.tolist() if row.dtype == np.float64 else [float(str(value)) for value in row]


def _geometry(shape: shapely.Geometry) -> dict[str, Any]:
    """Return a polygon or multipolygon as GeoJSON has it."""
    if shape.geom_type == "Polygon":
        return {"type": "Polygon", "coordinates": _rings(shape)}
    return {"type": "MultiPolygon", "coordinates": [_rings(part) for part in shape.geoms]}


def _rings(polygon: shapely.Polygon) -> list[list[list[float]]]:
    rings = (polygon.exterior, *polygon.interiors)
    return [shapely.get_coordinates(ring).tolist() for ring in rings]
