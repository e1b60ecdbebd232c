"""Which shapes of an object to write, the rows that belong to them, and where they lie on the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from spade import _keys
from spade._checks import shorten
from spade.io._polygons import checked_areas
from spade.io._recorded.frames import matrix_between, systems_of

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

#: Segments of a quarter of a circle: spots become polygons of 32 corners.
QUARTER = 8


@dataclass(frozen=True)
class Source:
    """Shapes that are written, and the table with their results.

    Attributes
    ----------
    element
        Name of the shapes.
    table, rows
        Table that describes them, and the row of each that is written; None: the columns are those of the shapes.
    shapes
        One per row, in the order of the rows.
    ids
        What each is called: the name of its row, or its index.
    image
        Image that they were made on, as far as is recorded.
    """

    element: str
    table: AnnData | None
    rows: NDArray[np.int64]
    shapes: GeoDataFrame
    ids: list[str]
    image: str | None


def find_source(sdata: SpatialData, shapes_key: str | None, table_key: str | None, region: str | None) -> Source:
    """Return the shapes that were asked for; None: those that the only table describes."""
    key = _table(sdata, shapes_key, table_key)
    if key is None:
        shapes = sdata.shapes[str(shapes_key)]
        if region is not None:
            raise ValueError(f"region={region!r}: no table describes shapes[{shapes_key!r}]; leave region= out.")
        return Source(str(shapes_key), None, np.arange(len(shapes)), shapes, list(map(str, shapes.index)), None)
    table = sdata.tables[key]
    regions, region_key, instance_key = _annotated(table)
    chosen = _region(regions, shapes_key, region, key)
    made = _patches_of(table, chosen)
    element = made.get(str(shapes_key), {}).get("element", chosen if shapes_key is None else shapes_key)
    _check_current(table, element, made)
    if element not in sdata.shapes:
        raise KeyError(
            f"shapes_key={shapes_key!r}: there are no shapes {element!r}; shapes: {shorten(sdata.shapes) or 'none'}."
        )
    rows = np.flatnonzero((table.obs[region_key] == chosen).to_numpy())
    ids = pd.Index(table.obs[instance_key].to_numpy()[rows])
    for index, what in ((ids, f"tables[{key!r}].obs[{instance_key!r}]"), (sdata.shapes[element].index, element)):
        if not index.is_unique:
            raise ValueError(f"{what}: ids occur more than once, such as {shorten(index[index.duplicated()], 3)}.")
    positions = pd.Index(sdata.shapes[element].index).get_indexer(ids)
    if (positions < 0).any() or not len(ids):
        lost = ids[positions < 0]
        raise KeyError(
            f"{len(lost)} of {len(ids)} rows of tables[{key!r}] in region {chosen!r} have no shape in "
            f"shapes[{element!r}], such as {shorten(lost, 3) or 'nothing'}. Name the shapes with shapes_key=."
        )
    images = {str(facts["image"]) for facts in made.values()}
    image = next(iter(images)) if len(images) == 1 else None
    names = list(map(str, table.obs_names[rows]))
    return Source(element, table, rows, sdata.shapes[element].iloc[positions], names, image)


def _annotated(table: AnnData) -> tuple[list[str], str, str]:
    """Return the regions of a table, and its columns with region and instance."""
    from spatialdata.models import get_table_keys

    regions, region_key, instance_key = get_table_keys(table)
    return [regions] if isinstance(regions, str) else list(regions), region_key, instance_key


def _patches_of(table: AnnData, region: str) -> dict[str, dict[str, Any]]:
    """Return the records of all patches of a region, by key."""
    records = table.uns.get(_keys.UNS, {})
    return {key: facts["regions"][region] for key, facts in records.items() if region in facts.get("regions", {})}


def _check_current(table: AnnData, element: str, made: dict[str, dict[str, Any]]) -> None:
    """Raise if shapes are tiles on tissue that was found anew since."""
    for key, facts in made.items():
        if facts["element"] == element and (stale := _keys.outdated(table.uns, key)) is not None:
            raise ValueError(
                f"shapes[{element!r}] are outdated: {stale[1]!r} was written anew after they were made from it. Run "
                f"sp.{_keys.read_provenance(table.uns, key)['function']} again."
            )


def _table(sdata: SpatialData, shapes_key: str | None, table_key: str | None) -> str | None:
    """Return the table that describes the shapes; None if none does."""
    if table_key is not None:
        known = [key for key in (table_key, _keys.tile_table(table_key)) if key in sdata.tables]
        if not known:
            raise KeyError(f"table_key={table_key!r} is not there; tables: {shorten(sdata.tables) or 'none'}.")
        return known[0]
    if shapes_key is None:
        found = list(sdata.tables)
    else:
        found = [key for key, table in sdata.tables.items() if shapes_key in _described(table)]
        if not found:
            if shapes_key in sdata.shapes:
                return None
            raise KeyError(f"shapes_key={shapes_key!r} is not there; shapes: {shorten(sdata.shapes) or 'none'}.")
    if len(found) != 1:
        raise ValueError(
            f"{len(found)} tables could be written ({shorten(found) or 'none'}). Name one with table_key=, or "
            "outlines that no table describes with shapes_key=."
        )
    return found[0]


def _described(table: AnnData) -> set[str]:
    """Return the shapes that a table annotates, and the keys and elements of its patches."""
    from spatialdata.models import TableModel

    if TableModel.ATTRS_KEY not in table.uns:
        return set()
    regions = _annotated(table)[0]
    made = {key: facts["element"] for region in regions for key, facts in _patches_of(table, region).items()}
    return {*regions, *made, *made.values()}


def _region(regions: list[str], shapes_key: str | None, region: str | None, key: str) -> str:
    """Return the region of a table that is written."""
    if region is None and shapes_key in regions:
        return str(shapes_key)
    if region is None and len(regions) == 1:
        return regions[0]
    if region not in regions:
        raise ValueError(
            f"region={region!r}: tables[{key!r}] has the regions {shorten(regions, 20)}; a file shows one of them, as "
            "it belongs to one image."
        )
    return region


def image_of(sdata: SpatialData, source: Source, image_key: str | None) -> str:
    """Return the image in whose pixels shapes are written: the one named, that of the patches, or the only one."""
    if image_key is not None:
        if image_key not in sdata.images:
            raise KeyError(f"image_key={image_key!r} is not there; images: {shorten(sdata.images) or 'none'}.")
        return image_key
    if source.image in sdata.images:
        return str(source.image)
    systems = set(systems_of(source.shapes))
    near = [key for key in sdata.images if systems & set(systems_of(sdata.images[key]))]
    if len(near) != 1:
        raise ValueError(
            f"image_key=None: {len(near)} images share a coordinate system with shapes[{source.element!r}] "
            f"({shorten(near) or 'none'}). Name the one that is opened in QuPath: coordinates are its pixels."
        )
    return near[0]


def on_image(sdata: SpatialData, source: Source, image_key: str) -> NDArray[np.object_]:
    """Return shapes as valid (multi)polygons in pixels of an image at its finest level."""
    shapes = source.shapes
    matrix = matrix_between(shapes, sdata.images[image_key], f"shapes[{source.element!r}]", f"images[{image_key!r}]")
    geometry = shapes.geometry.to_numpy()
    if "radius" in shapes:
        geometry = shapely.buffer(geometry, shapes["radius"].to_numpy(dtype=float), quad_segs=QUARTER)
    if not np.array_equal(matrix, np.eye(3)):
        geometry = shapely.transform(geometry, lambda points: points @ matrix[:2, :2].T + matrix[:2, 2])
    areas, _ = checked_areas(geometry, source.ids, f"shapes[{source.element!r}]")
    return areas
