"""Polygons of a section, read from a frame, a file or a shapes element, in pixels of the patches' image."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from os import PathLike

import numpy as np
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray

from spade._checks import shorten, value_strings
from spade._samples.patches import PlacedPatches
from spade._samples.placement import pixels_of
from spade._samples.sample import Sample, Section
from spade.core.arrays import Floats
from spade.core.checks import check_path
from spade.io import _geojson, _label_table
from spade.io._bytes import suffix
from spade.io._polygons import checked_areas
from spade.io._recorded.bounds import Corner, bounds_corner, move_corner

logger = logging.getLogger("spade")


@dataclass(frozen=True)
class Outlines:
    """Valid polygons and their labels (None: unlabelled), and whether they were read from a file."""

    polygons: NDArray[np.object_]
    labels: NDArray[np.object_]
    n_repaired: int = 0
    of_file: bool = False


@dataclass(frozen=True)
class PolygonSettings:
    """How polygons become labels, as in :func:`~spade.pp.label_patches`, and the column of the labels."""

    column: str
    by: str
    min_share: float
    mpp: float | None
    patches_key: str
    in_bounds: bool | None = None


def by_section(annotations: object, names: list[str], column: str) -> dict[str, Outlines | str]:
    """Return the polygons, or the name of a shapes element, of each section that has some."""
    if isinstance(annotations, Mapping):
        if not annotations:
            raise ValueError(f"annotations= is an empty dict; sections: {shorten(names)}.")
        check_known([str(name) for name in annotations], names, "annotations=")
        return {name: _read(value, column, f"annotations[{name!r}]") for name, value in annotations.items()}
    source = _read(annotations, column, "annotations")
    if isinstance(source, str):
        return dict.fromkeys(names, source)
    if len(names) > 1:
        raise ValueError(
            f"annotations= are the polygons of one image, but there are {len(names)} sections, {shorten(names)}. Pass "
            "a dict from section to polygons."
        )
    return {names[0]: source}


def _read(value: object, column: str, argument: str) -> Outlines | str:
    """Return polygons, or the name of a shapes element as it is."""
    if isinstance(value, GeoDataFrame):
        return _read_frame(value, column, f"{argument}=")
    if isinstance(value, (str, PathLike)):
        path = check_path(argument, value)
        if suffix(path) in _geojson.SUFFIXES:
            frame, n_repaired = _geojson.read_polygons(path, argument=argument)
            outlines = _read_frame(frame, column, f"{argument}={str(value)!r}")
            return replace(outlines, n_repaired=n_repaired, of_file=True)
        if isinstance(value, str) and suffix(path) not in _label_table.SUFFIXES:
            return value
        raise ValueError(
            f"{argument}={str(value)!r}: polygons are read from {', '.join(_geojson.SUFFIXES)}, plain or .gz. Pass "
            "tables one by one, or as one table with a column 'sample'."
        )
    raise TypeError(
        f"{argument}: got {type(value).__name__}; expected a GeoDataFrame, a path, the name of a shapes element, a "
        "dict of these by section, or a DataFrame with a column 'sample' or 'spot'."
    )


def in_pixels(
    sample: Sample, section: Section, source: Outlines | str, settings: PolygonSettings, placed: PlacedPatches
) -> Outlines:
    """Return the polygons of a section in pixels of its image."""
    mpp = settings.mpp
    if not isinstance(source, str):
        if placed.moved:
            raise ValueError(
                f"{section.name}: annotations= are in pixels of an image, but the image was cropped, resampled or "
                "moved after sp.pp.patches, so it is not known which one was annotated. Add the polygons as a shapes "
                "element with a transformation and name that element, or run sp.pp.patches again to pass polygons in "
                "pixels of the image as it is now."
            )
        corner = _corner(sample, section, source, settings, placed)
        outlines = source if mpp is None else _moved(source, np.diag([mpp / placed.mpp, mpp / placed.mpp, 1]))
        if corner is None:
            return outlines
        return replace(outlines, polygons=move_corner(outlines.polygons, corner, to_bounds=False))
    for name, value in (("mpp", None if mpp is None else f"{mpp:g}"), ("in_bounds", settings.in_bounds)):
        if value is not None:
            raise ValueError(
                f"{name}={value}: the transformations of shapes[{source!r}] map it to the image; leave {name}= out."
            )
    if source not in sample.sdata.shapes:
        raise KeyError(
            f"{section.name}: annotations={source!r} is not among the shapes: "
            f"{shorten(sample.sdata.shapes) or 'none'}. (Files end in "
            f"{', '.join([*_geojson.SUFFIXES, *_label_table.SUFFIXES])}, each with or without .gz; labels of whole "
            "samples are a DataFrame with a column 'sample'.)"
        )
    shapes = sample.sdata.shapes[source]
    outlines = _read_frame(shapes, settings.column, f"{section.name}: shapes[{source!r}]")
    matrix = pixels_of(sample.sdata, shapes, placed.image_key, placed.coordinate_system, section.name)
    return _moved(outlines, matrix)


def _corner(
    sample: Sample, section: Section, source: Outlines, settings: PolygonSettings, placed: PlacedPatches
) -> Corner | None:
    """Return the corner of the bounds that polygons are counted from, None if from that of the whole image."""
    corner = bounds_corner(sample.sdata, placed.image_key, in_bounds=settings.in_bounds)
    if corner is None:
        return None
    if settings.in_bounds is None and (settings.mpp is not None or not source.of_file):
        what = "are polygons and no file" if settings.mpp is None else f"are of another image (mpp={settings.mpp:g})"
        raise ValueError(
            f"{section.name}: annotations= {what}, but images[{placed.image_key!r}] is a slide that QuPath opens "
            f"cropped to its bounds, from pixel {corner} on. Pass in_bounds=True if they are counted from there, as "
            "what sp.io.read_annotations reads from QuPath, or in_bounds=False if from the corner of the whole slide."
        )
    logger.info("%s: outlines are counted from the corner of the slide's bounds, %s", section.name, corner)
    return corner


def check_known(given: Iterable[str], names: list[str], source: str) -> None:
    """Raise if annotations name samples or sections that are not there."""
    unknown = [name for name in given if name not in names]
    if unknown:
        raise KeyError(
            f"{source} names {shorten(unknown)}, but no sample or section has this name; names: {shorten(names)}. "
            "Leave labels of other samples out, or use these names."
        )


def _read_frame(frame: GeoDataFrame, column: str, source: str) -> Outlines:
    """Check a frame of polygons with a column of labels."""
    columns = [name for name in frame.columns if name != frame.geometry.name]
    if column not in columns:
        raise KeyError(
            f"{source} has no column {column!r} with labels; columns: {shorten(columns) or 'none but the geometry'}. "
            "Name it with columns=, or read files of QuPath with sp.io.read_annotations."
        )
    if not len(frame):
        raise ValueError(f"{source} holds no polygons.")
    text = value_strings(frame[column])
    names = [f"row {i!r}" + (f" ({label})" if label else "") for i, label in zip(frame.index, text, strict=True)]
    polygons, n_repaired = checked_areas(frame.geometry.to_numpy(), names, source)
    return Outlines(polygons, np.array([label or None for label in text], dtype=object), n_repaired)


def _moved(outlines: Outlines, matrix: Floats) -> Outlines:
    """Map coordinates by an affine ``(3, 3)`` matrix on (x, y)."""
    if np.array_equal(matrix, np.eye(3)):
        return outlines
    polygons: NDArray[np.object_] = np.asarray(
        shapely.transform(outlines.polygons, lambda xy: xy @ matrix[:2, :2].T + matrix[:2, 2]), dtype=object
    )
    return replace(outlines, polygons=polygons)
