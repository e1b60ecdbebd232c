"""Labels made by people: outlines drawn in QuPath, and tables of spots, slides or samples."""

from __future__ import annotations

import logging
from collections.abc import Collection
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spade._checks import plural
from spade.core.checks import brief, check_choice, check_count, check_path
from spade.core.errors import warn
from spade.io._bytes import MAX_BYTES, suffix

if TYPE_CHECKING:
    import pandas as pd
    from geopandas import GeoDataFrame

logger = logging.getLogger("spade")


def read_annotations(
    path: str | PathLike[str],
    *,
    object_types: str | Collection[str] | None = None,
    other_geometry: Literal["error", "skip"] = "error",
    sample_col: str | None = None,
    spot_col: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> GeoDataFrame | pd.DataFrame:
    r"""Read polygons from GeoJSON, or a table of labels, for :func:`spade.pp.label_patches`.

    Parameters
    ----------
    path
        GeoJSON as QuPath exports it (``.geojson``, ``.json``: a FeatureCollection, a list of features or one feature),
        or a table with a header (``.csv``, ``.tsv``, ``.txt``; comma, tab or semicolon; lines that begin with ``#`` are
        comments). Either may be gzipped (``.gz``).
    object_types
        GeoJSON: read these types of objects only, such as ``"annotation"``, ``"detection"`` or ``"cell"``. None: all.
    other_geometry
        GeoJSON: what to do with points and lines, which have no area: ``"error"``, or ``"skip"``, which logs how many.
    sample_col
        Table: column that names the sample. None: the one called ``sample``, ``slide``, ``section`` (or these with
        ``_id``), ``sample_name``, ``slide_name`` or ``id``, in upper or lower case.
    spot_col
        Table: column that names the spot. None: the one called ``spot``, ``spot_id``, ``spot_name``, ``barcode``,
        ``instance_id``, ``cell_id`` or ``obs_name``. The name of an unnamed column, such as an index that pandas wrote,
        is ``""``.
    max_bytes
        Size of the largest file that is read, uncompressed.

    Returns
    -------
    GeoDataFrame | DataFrame
        GeoJSON: one row per object with ``label`` (its class, else its name, else None; derived classes such as
        ``"Tumor: Positive"`` are kept), ``name``, ``object_type`` and ``geometry``: valid (multi)polygons in pixels of
        the annotated image as they are in the file, without a CRS. Of a slide that QuPath opens cropped to its bounds
        (MRXS, SCN and others) they count from the corner of the bounds, which
        ``sp.pp.label_patches(…, in_bounds=True)`` puts right.
        Table: ``sample`` and/or ``spot`` (strings), then the other columns under their own names: numbers if all
        entries are numbers as a program writes them, else stripped strings, as 007, 1E2 and 1.1 beside 1.10 are; empty
        entries, ``NA`` and ``NaN`` are missing.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    KeyError
        If ``sample_col`` or ``spot_col`` is not a column.
    ValueError
        If the file is damaged, too large or of another format; geometries are empty, not areas, not finite or cross
        themselves more than a thousand times; a spot or sample is named twice or not at all; or several columns may
        name it.

    Warns
    -----
    UserWarning
        If polygons had to be repaired, with their number: rings that were not closed, outlines that cross themselves,
        points and lines among areas.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import spade as sp
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "he.geojson").write_text(
    ...     '{"type": "Feature", "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},'
    ...     ' "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]]}}'
    ... )
    >>> sp.io.read_annotations(folder / "he.geojson")[["label", "object_type"]].values.tolist()
    [['Tumor', 'annotation']]
    >>> _ = (folder / "labels.csv").write_text("slide_id,Barcode,layer\nA1,AAAC-1,L2\nA1,AAAG-1,\n")
    >>> sp.io.read_annotations(folder / "labels.csv").columns.tolist()
    ['sample', 'spot', 'layer']
    """
    from spade.io import _geojson, _label_table

    path = check_path("path", path)
    check_choice("other_geometry", other_geometry, ("error", "skip"))
    check_count("max_bytes", max_bytes)
    kind = suffix(path)
    if kind in _geojson.SUFFIXES:
        _refuse(path, "a table", sample_col=sample_col, spot_col=spot_col)
        types = [object_types] if isinstance(object_types, str) else object_types
        if types is not None and not (isinstance(types, Collection) and all(isinstance(kind, str) for kind in types)):
            raise ValueError(f"object_types={brief(object_types)}: expected names of types, such as 'annotation'.")
        polygons, repaired = _geojson.read_polygons(
            path, object_types=types, other_geometry=other_geometry, most=max_bytes
        )
        if repaired:
            warn(
                f"{path.name}: repaired {repaired} of {plural(len(polygons), 'polygon')} that were not closed, crossed "
                "themselves or held points and lines; only areas are kept."
            )
        n_polygons = plural(len(polygons), "polygon")
        logger.info("%s: read %s: %s", path.name, n_polygons, polygons["label"].value_counts().to_dict())
        return polygons
    if kind in _label_table.SUFFIXES:
        _refuse(
            path, "GeoJSON", object_types=object_types, other_geometry=None if other_geometry == "error" else "skip"
        )
        table = _label_table.read_label_table(path, sample_col=sample_col, spot_col=spot_col, most=max_bytes)
        logger.info("%s: read %s with columns %s", path.name, plural(len(table), "row"), list(table.columns))
        return table
    raise ValueError(
        f"path={str(path)!r} has neither a suffix of GeoJSON ({', '.join(_geojson.SUFFIXES)}) nor one of a table "
        f"({', '.join(_label_table.SUFFIXES)}), with or without .gz. Rename the file."
    )


def _refuse(path: Path, other: str, **options: object) -> None:
    """Raise if an option was given that means nothing for this kind of file."""
    given = [f"{name}=" for name, value in options.items() if value is not None]
    if given:
        raise ValueError(
            f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} for {other}, which {path.name!r} is not."
        )
