"""Results on an image as objects of QuPath."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely

from spade._checks import check_idle, plural
from spade.core.checks import check_choice, check_flag, check_names_given, check_path, check_text
from spade.io._bytes import suffix
from spade.io._export.columns import read_labels, read_numbers
from spade.io._export.elements import find_source, image_of, on_image
from spade.io._export.qupath import Objects, write_objects
from spade.io._files.store import read_store
from spade.io._geojson import SUFFIXES
from spade.io._recorded.bounds import bounds_corner, move_corner

if TYPE_CHECKING:
    from spatialdata import SpatialData

logger = logging.getLogger("spade")
TYPES = ("annotation", "detection", "tile")
#: Corners of neighbours are the same point if they differ by less than this, in pixels.
SNAP = 1e-3


def write_annotations(
    sdata: SpatialData | str | PathLike[str],
    path: str | PathLike[str],
    *,
    color: str | None = None,
    measurements: str | Sequence[str] = (),
    shapes_key: str | None = None,
    table_key: str | None = None,
    region: str | None = None,
    image_key: str | None = None,
    layer: str | None = None,
    object_type: str = "detection",
    dissolve: bool = False,
    in_bounds: bool | None = None,
) -> None:
    """Write tiles, patches, spots or outlines with their results as GeoJSON, which QuPath opens on the slide.

    One file shows one image: of several sections, write one file each.

    Parameters
    ----------
    sdata
        A ``SpatialData``, or a path to a zarr store.
    path
        File to write, ``.geojson`` or ``.json``, gzipped if ``.gz`` follows. A file that is there is replaced.
    color
        Column with the class of each object, such as ``"spade_expert"``; its colours are those of
        ``uns["<color>_colors"]``, else QuPath chooses. Where the column is missing, an object has no class. None: no
        object has one.
    measurements
        Numbers of each object: columns, genes and ``obsm`` keys, of which all columns are written
        (``"X_spade: 0"``). What is not finite is left out.
    shapes_key
        What is drawn: shapes that a table describes, patches (``"patches"``), or outlines that no table describes, such
        as ``"tissue"``, whose own columns are read then. None: the shapes that the table describes, spots or tiles.
        Circles become polygons of 32 corners.
    table_key
        Table; may be left out when there is one, or when ``shapes_key`` tells.
    region
        Section of a table that has several.
    image_key
        Image whose pixels (x, y) at its finest level the coordinates are (see ``in_bounds``): the one that is opened in
        QuPath. None: the one that the patches were made on, else the only one that shares a coordinate system with the
        shapes.
    layer
        Layer that genes are read from. None: ``X``.
    object_type
        What the objects are in QuPath: ``"annotation"``, which people edit, or ``"detection"`` or ``"tile"``, of which
        it takes many.
    dissolve
        Whether objects of one class that touch or overlap become one outline. Objects without a class are then left
        out, and logged, and there can be no measurements.
    in_bounds
        QuPath opens a slide that it reads through OpenSlide cropped to its bounds (MRXS, SCN and others), and counts
        pixels from their corner. True: so are the coordinates, if bounds of the image are recorded, as
        :func:`read_wsi` does, and else they are pixels of the whole image. None: the same, but an image that was
        cropped or resampled since is taken as it is, where True is an error. False: pixels of the whole image, for
        QuPath with ``--no-crop``, for a file of :func:`write_ome_tiff`, and for programs that show the whole slide.

    Raises
    ------
    FileNotFoundError
        If there is no such store, or no folder for the file.
    KeyError
        If a column, gene, element or the shape of a row is not there.
    TypeError
        If classes are real numbers, or measurements are text.
    ValueError
        If the table, region or image is ambiguous, a name is in several places, a result is outdated, nothing has a
        class to dissolve, ``path`` has another suffix, or ``in_bounds`` is True for an image that was cropped or
        resampled.

    Notes
    -----
    Coordinates are written in full, so that :func:`read_annotations` returns the same polygons and labels, in the same
    order; those of a slide with bounds are counted from their corner, and :func:`spade.pp.label_patches` puts them back
    in their place. The name of a row is in ``metadata["id"]`` of its object. The file is written object by object, and
    replaced in one step.

    Examples
    --------
    >>> import tempfile
    >>> import spade as sp
    >>> (sdata,) = sp.datasets.toy(1, 30)
    >>> sp.pp.patches(sdata)
    >>> path = tempfile.mkdtemp() + "/domains.geojson"
    >>> sp.io.write_annotations(sdata, path, color="domain", shapes_key="patches")
    >>> sp.io.read_annotations(path)["label"].tolist() == sdata["table"].obs["domain"].tolist()
    True
    """
    file = check_path("path", path)
    if suffix(file) not in SUFFIXES:
        raise ValueError(f"path={str(file)!r}: expected a name that ends in .geojson or .json, with or without .gz.")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"path={str(file)!r}: there is no folder {str(file.parent)!r}.")
    for name, value in (("color", color), ("shapes_key", shapes_key), ("table_key", table_key), ("region", region)):
        if value is not None:
            check_text(name, value)
    for name, value in (("image_key", image_key), ("layer", layer)):
        if value is not None:
            check_text(name, value)
    asked = (
        []
        if isinstance(measurements, Sequence) and not measurements
        else check_names_given("measurements", measurements)
    )
    check_choice("object_type", object_type, TYPES)
    if in_bounds is not None:
        check_flag("in_bounds", in_bounds)
    if check_flag("dissolve", dissolve):
        check_idle([("measurements", tuple(asked), ())], "merged outlines have none")
        if color is None:
            raise ValueError("dissolve=True merges objects of one class; name the column with color=.")
    if not asked:
        check_idle([("layer", layer, None)], "no genes are written")
    opened = _opened(sdata)
    source = find_source(opened, shapes_key, table_key, region)
    image = image_of(opened, source, image_key)
    labels: list[str] = [""] * len(source.ids)
    colours: dict[str, tuple[int, int, int]] = {}
    if color is not None:
        labels, colours = read_labels(source, color)
    numbers, names = read_numbers(source, asked, layer)
    corner = bounds_corner(opened, image, in_bounds=in_bounds)
    objects = Objects(on_image(opened, source, image), source.ids, labels, colours, numbers, names)
    if dissolve:
        objects = _dissolved(objects, str(color))
    if corner is not None:
        objects = replace(objects, polygons=move_corner(objects.polygons, corner, to_bounds=True))
    write_objects(file, objects, object_type)
    what = f"images[{image!r}]" + (f" from the corner of its bounds, {corner}" if corner else "")
    logger.info("%s: wrote %s in pixels of %s", file.name, plural(len(objects.ids), "object"), what)


def _opened(sdata: SpatialData | str | PathLike[str]) -> SpatialData:
    """Return an object, or that of a store."""
    from spatialdata import SpatialData

    if isinstance(sdata, SpatialData):
        return sdata
    if not isinstance(sdata, (str, PathLike)):
        raise TypeError(f"sdata: got {type(sdata).__name__}; expected one SpatialData, or a path to a .zarr store.")
    path: Path = check_path("sdata", sdata)
    if not path.exists():
        raise FileNotFoundError(f"sdata: there is no store at {str(path)!r}.")
    return read_store(path, "sdata")


def _dissolved(objects: Objects, color: str) -> Objects:
    """Return one object per connected area of every class, the classes in order."""
    labels = np.asarray(objects.labels, dtype=object)
    classes = sorted(set(labels) - {""})
    if not classes:
        raise ValueError(f"color={color!r}: no object has a class, so that there is nothing to dissolve.")
    if n_missing := int((labels == "").sum()):
        logger.info("%d of %d objects have no class in %r and are left out", n_missing, len(labels), color)
    areas = {
        name: shapely.get_parts(shapely.union_all(objects.polygons[labels == name], grid_size=SNAP)) for name in classes
    }
    polygons = np.concatenate(list(areas.values()))
    merged = [name for name, parts in areas.items() for _ in parts]
    return Objects(polygons, [""] * len(polygons), merged, objects.colours)
