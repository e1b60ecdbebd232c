"""Patches and embeddings of sopa."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from spade._checks import plural, shorten
from spade.core.arrays import Floats
from spade.io._neighbours.opened import check_options, chosen_tables, opened, settled_mpp, table_of, unique_ids
from spade.io._neighbours.tiles import (
    Tiles,
    check_squares,
    joined_features,
    plain_columns,
    settle_size,
    tiled_slide,
    to_pixels,
)
from spade.io._recorded.bounds import stated_bounds
from spade.io._recorded.frames import image_size
from spade.io._recorded.scale import recorded_mpp, section_record

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

logger = logging.getLogger("spade")
FUNCTION = "io.from_sopa"
#: Entry of ``uns`` with the settings of embeddings, end of the names of their tables, and the edges of patches.
CONFIG, ENDS, EDGES = "embedding_config", "_embeddings", "bboxes"
#: ``attrs`` that name the image that was worked on.
IMAGES = ("tissue_segmentation_image", "cell_segmentation_image")


def from_sopa(
    sdata: SpatialData | str | PathLike[str],
    *,
    mpp: float | None = None,
    size_um: float | None = None,
    features: str | Sequence[str] | None = None,
    image_key: str | None = None,
    tissue_key: str = "region_of_interest",
    sample_id: str | None = None,
) -> SpatialData:
    """Take over the patches that sopa embedded, as tiles that :func:`spade.pp.tiles` and its like make.

    The object that is passed is not changed; the image is shared.

    Parameters
    ----------
    sdata
        A ``SpatialData`` on which ``sopa.patches.compute_embeddings`` was run, or a path to its store.
    mpp
        Microns per pixel of the image at its finest level. None: what ``sopa.io.wsi`` or a reader of this package
        recorded.
    size_um
        Side of a patch in µm, within 5 % of the one measured; state it so that it is the same for all slides. None: as
        measured.
    features
        Tables with embeddings. None: all that have ``uns["embedding_config"]``.
    image_key
        Image that was embedded. None: the one that sopa recorded, else the only one.
    tissue_key
        Shapes with the tissue; taken over as ``shapes["tissue"]`` if they are there.
    sample_id
        Name of the sample. None: what is recorded in ``attrs["spade"]``.

    Returns
    -------
    SpatialData
        The image; ``shapes["tiles"]``, whole squares also where sopa cut them at the tissue; ``tables["tiles_table"]``
        of width 0 with ``obsm["X_<model>"]`` for every table, ``obs["tile_id"]`` and ``obs["spade_valid"]``; and
        ``shapes["tissue"]``. Size, image and µm/px are in ``uns["spade"]["patches"]``; µm/px of the image are in
        ``attrs``. Nothing else is taken over.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    KeyError
        If there are no embeddings, or an element is not there.
    ValueError
        If µm/px are not known or contradict each other, the image is not known, patches are not square, or patches
        were made anew after they were embedded.

    Warns
    -----
    UserWarning
        If centres of patches lie off the image; these get NaN features.

    Notes
    -----
    Written for sopa 2.2: embeddings in ``X`` of ``tables["{model}_embeddings"]``, patches in
    ``shapes["embeddings_patches"]``, cut at the tissue, with their whole extent in the column ``"bboxes"``, in pixels
    of the level that was read.

    Examples
    --------
    Two patches in the layout of sopa, on a toy image:

    >>> import numpy as np
    >>> import spade as sp
    >>> from anndata import AnnData
    >>> from geopandas import GeoDataFrame
    >>> from shapely import box
    >>> from spatialdata import SpatialData
    >>> from spatialdata.models import ShapesModel, TableModel
    >>> (toy,) = sp.datasets.toy(1, 30)
    >>> table = AnnData(np.eye(2, dtype="float32"), uns={"embedding_config": {"patch_width": 224}})
    >>> table.obs["region"], table.obs["instance"] = "embeddings_patches", [0, 1]
    >>> keys = {"region": "embeddings_patches", "region_key": "region", "instance_key": "instance"}
    >>> patches = GeoDataFrame(geometry=[box(0, 0, 224, 224), box(224, 0, 448, 224)])
    >>> slide = SpatialData(
    ...     images={"image": toy["image"]},
    ...     shapes={"embeddings_patches": ShapesModel.parse(patches)},
    ...     tables={"resnet50_embeddings": TableModel.parse(table, **keys)},
    ... )
    >>> sdata = sp.io.from_sopa(slide, mpp=0.5)
    >>> sdata["tiles_table"].obsm["X_resnet50"].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    check_options(mpp=mpp, size_um=size_um, image_key=image_key, tissue_key=tissue_key, sample_id=sample_id)
    source = opened(sdata, "sdata")
    found = {name: _model(name, table) for name, table in source.tables.items() if CONFIG in table.uns}
    tables = chosen_tables(source, None, features, found, "sopa.patches.compute_embeddings makes them")
    region = _region(tables, source)
    key = _image(source, image_key)
    image = source.images[key]
    scale = settled_mpp(mpp, _stated(source, key), f"images[{key!r}]")
    tiles = _tiles(source, region, tables, image)
    joined = {}
    for name, table in tables.items():
        _check_places(table, source.shapes[region], name)
        joined[name] = joined_features(table, tiles.ids, table_of(table)[1], f"the table of {name!r}")
    taken = tiled_slide(
        key,
        image,
        tiles,
        mpp=scale,
        size_um=settle_size(tiles, scale, size_um),
        features=joined,
        tissue=source.shapes.get(tissue_key),
        function=FUNCTION,
        sample=sample_id or section_record(source).get("sample"),
        slide=_slide(source, key),
    )
    logger.info("took over %s with features %s", plural(len(tiles.ids), "tile"), shorten(tables))
    return taken


def _model(name: str, table: AnnData) -> str:
    """Return the model of a table of embeddings, by its name, which two of one class may not share."""
    return name.removesuffix(ENDS) or str(table.uns[CONFIG].get("model_name", name))


def _region(tables: dict[str, AnnData], source: SpatialData) -> str:
    """Return the shapes that all tables annotate."""
    regions = {str(table_of(table)[0]) for table in tables.values()}
    region = min(regions)
    if len(regions) > 1:
        raise ValueError(
            f"the tables describe different patches, {shorten(sorted(regions))}. Choose some with features=."
        )
    if region not in source.shapes:
        raise KeyError(
            f"shapes[{region!r}], which the embeddings describe, are not there; shapes: {shorten(source.shapes)}."
        )
    return region


def _image(source: SpatialData, image_key: str | None) -> str:
    """Return the image that was embedded."""
    recorded = [source.attrs[name] for name in IMAGES if source.attrs.get(name) in source.images]
    keys = [image_key] if image_key is not None else recorded[:1] or list(source.images)
    if len(keys) != 1 or keys[0] not in source.images:
        raise KeyError(
            f"image_key={image_key!r}: the image that was embedded is not known; images: "
            f"{shorten(source.images) or 'none'}. Name one."
        )
    return str(keys[0])


def _stated(source: SpatialData, key: str) -> object:
    """Return the µm/px of an image that ``sopa.io.wsi`` or a reader of this package recorded, None if none did."""
    size = image_size(source.images[key])
    for facts in _properties(source, key):
        if tuple(map(int, facts.get("shape", ()))) == size[::-1] and facts.get("mpp") is not None:
            return facts["mpp"]
    return recorded_mpp(source, key)


def _slide(source: SpatialData, key: str) -> dict[str, Any]:
    """Return what a reader of this package recorded of the file of a slide, else the bounds that sopa knows."""
    if recorded := section_record(source).get("slides", {}).get(key):
        return recorded
    size = image_size(source.images[key])
    return next(filter(None, (stated_bounds(facts, size) for facts in _properties(source, key))), {})


def _properties(source: SpatialData, key: str) -> tuple[Mapping[str, Any], ...]:
    """Return the records in which ``sopa.io.wsi`` may state what it knows of a slide."""
    return source.attrs.get("slide_properties", {}), source.images[key].attrs.get("metadata", {})


def _edges(shapes: GeoDataFrame) -> Floats:
    """Return the edges ``(n, 4)`` of whole patches, in their own coordinates."""
    if EDGES not in shapes:
        return shapes.bounds.to_numpy()
    return np.array([list(edges) for edges in shapes[EDGES]], dtype=np.float64).reshape(-1, 4)


def _tiles(source: SpatialData, region: str, tables: dict[str, AnnData], image: Any) -> Tiles:
    """Return the patches, in pixels of the image."""
    shapes, what = source.shapes[region], f"shapes[{region!r}]"
    matrix = to_pixels(shapes, image, what)
    boxes = check_squares(_edges(shapes) * matrix[0, 0] + [*matrix[:2, 2]] * 2, what)
    configs = [dict(table.uns.get(CONFIG, {})) for table in tables.values()]
    widths = {int(config["patch_width"]) for config in configs if config.get("patch_width")}
    if len(widths) > 1:
        raise ValueError(
            f"the embeddings are of patches of {shorten(sorted(widths))} px; choose those of one size with features=."
        )
    side = float(np.median(boxes[:, 2] - boxes[:, 0]))
    step = _step(boxes)
    return Tiles(
        boxes,
        unique_ids(pd.Index(shapes.index.to_numpy()), what),
        plain_columns(pd.DataFrame(shapes), ("geometry", EDGES, "ilocs")),
        size_px=min(widths, default=round(side)),
        overlap=max(0.0, 1 - step / side),
    )


def _step(boxes: Floats) -> float:
    """Return the smallest distance of neighbouring columns or rows of patches; infinite if there is one of each."""
    gaps = np.concatenate([np.diff(np.unique(boxes[:, axis])) for axis in (0, 1)])
    return float(gaps[gaps > 0.5].min(initial=np.inf))


def _check_places(table: AnnData, shapes: GeoDataFrame, name: str) -> None:
    """Raise if embeddings were made of patches at other places: sopa replaces patches and keeps earlier embeddings."""
    if "spatial" not in table.obsm:
        return
    edges = _edges(shapes)
    centres = (edges[:, :2] + edges[:, 2:]) / 2
    rows = pd.Index(shapes.index).get_indexer(pd.Index(table.obs[table_of(table)[1]].to_numpy()))
    if EDGES in shapes and not np.allclose(centres[rows], np.asarray(table.obsm["spatial"]), rtol=0, atol=1):
        raise ValueError(
            f"the table of {name!r} is of patches at other places than those in shapes: they were made anew since. "
            "Compute it again, or leave it out of features=."
        )
