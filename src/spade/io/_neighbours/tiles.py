"""Tiles that another package laid and encoded, in the form of ``sp.pp.tiles`` and ``sp.pp.encode_patches``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade import _keys
from spade._checks import shorten
from spade.core.arrays import Floats
from spade.core.errors import warn
from spade.core.files import digest
from spade.core.spots.lattice import TOLERANCE
from spade.io._files.matrices import to_dense
from spade.io._polygons import checked_areas
from spade.io._recorded.frames import frame_of, image_size, matrix_between, systems_of
from spade.io._recorded.scale import record_scale

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData
    from xarray import DataArray, DataTree

logger = logging.getLogger("spade")
#: Sides and positions of tiles in one grid differ by less than this, in pixels.
SAME_PX = 0.51


@dataclass(frozen=True)
class Tiles:
    """Square tiles on an image.

    Attributes
    ----------
    boxes
        Left, top, right and lower edge ``(n, 4)`` in pixels of the image at its finest level.
    ids
        Id of each, by which features are joined.
    obs
        What else is known of each.
    size_px
        Side in pixels when they were read.
    overlap
        Share of the side by which neighbours overlap.
    """

    boxes: Floats
    ids: pd.Index
    obs: pd.DataFrame
    size_px: int
    overlap: float

    @property
    def side(self) -> float:
        """Side in pixels of the image at its finest level."""
        return float(np.median(self.boxes[:, 2:] - self.boxes[:, :2]))


def to_pixels(shapes: GeoDataFrame, image: DataArray | DataTree, what: str) -> Floats:
    """Return the ``(3, 3)`` matrix on (x, y) from shapes to pixels of an image; raise if it turns or stretches them."""
    matrix = matrix_between(shapes, image, what, "the image")
    if not np.allclose(matrix[:2, :2], matrix[0, 0] * np.eye(2), rtol=0, atol=1e-6 * abs(matrix[0, 0])):
        raise ValueError(f"{what} lie turned or stretched on the image, so that they are no square tiles of it.")
    return matrix


def check_squares(boxes: Floats, what: str) -> Floats:
    """Return boxes ``(n, 4)``, or raise if they are no squares of one size."""
    if not len(boxes):
        raise ValueError(f"{what} is empty: there are no tiles.")
    sides = boxes[:, 2:] - boxes[:, :2]
    odd = (np.abs(sides - np.median(sides)) > SAME_PX).any(axis=1) | ~np.isfinite(boxes).all(axis=1)
    if odd.any() or not np.median(sides) > 0:
        width, height = sides[odd][0] if odd.any() else sides[0]
        raise ValueError(
            f"{what}: {int(odd.sum())} of {len(boxes)} tiles are no squares of one size, such as one of {width:.1f} × "
            f"{height:.1f} pixels. Lay square tiles."
        )
    return boxes


def settle_size(tiles: Tiles, mpp: float, size_um: float | None) -> float:
    """Return the side of tiles in µm: what was stated, if it fits the measured one within 5 %, else this."""
    measured = tiles.side * mpp
    if size_um is not None and abs(size_um / measured - 1) > TOLERANCE:
        raise ValueError(
            f"size_um={size_um:g}: the tiles are {measured:.4g} µm wide ({tiles.side:g} px at {mpp:.4g} µm/px). State "
            "their size within 5 %, or correct mpp=."
        )
    return round(measured, 6) if size_um is None else size_um


def joined_features(table: AnnData, ids: pd.Index, instance_key: str, what: str) -> NDArray[np.float32]:
    """Return the rows of ``X`` in the order of the tiles; raise unless the table has one finite row for each."""
    own = pd.Index(table.obs[instance_key].to_numpy())
    if not own.is_unique:
        raise ValueError(
            f"{what}.obs[{instance_key!r}]: ids occur more than once, such as {shorten(own[own.duplicated()])}."
        )
    rows = own.get_indexer(ids)
    if len(own) != len(ids) or (rows < 0).any():
        raise ValueError(
            f"{what} has {len(own)} rows for {len(ids)} tiles, {int((rows >= 0).sum())} of them with the same id: the "
            "tiles were laid anew since, or are a part of those that were encoded. Compute the features again."
        )
    features = to_dense(table.X[rows], what)
    if not table.n_vars or not np.isfinite(features).all():
        raise ValueError(f"{what} has {'NaN or infinite values' if table.n_vars else 'no features'}. Compute it again.")
    return features


def plain_columns(frame: pd.DataFrame, leave_out: tuple[str, ...]) -> pd.DataFrame:
    """Return columns of numbers, truth values, text and categories under names that can be stored."""
    kept: dict[str, Any] = {}
    for name in frame.columns.difference(leave_out, sort=False):
        column = frame[name]
        if column.dtype.kind == "O" and not column.map(lambda value: value is None or isinstance(value, str)).all():
            logger.info("column %r holds no plain values and is left out", name)
            continue
        key = _keys.storable(str(name))
        if not key or key in kept or key in (_keys.VALID, "region"):
            raise ValueError(f"the tiles have a column {name!r}, which cannot be stored as {key!r}. Rename it.")
        kept[key] = column.to_numpy() if column.dtype.kind in "biufO" else column.array
    return pd.DataFrame(kept, index=frame.index)


def tiled_slide(
    image_key: str,
    image: DataArray | DataTree,
    tiles: Tiles,
    *,
    mpp: float,
    size_um: float,
    features: Mapping[str, NDArray[np.float32]],
    tissue: GeoDataFrame | None,
    function: str,
    sample: str | None,
    slide: Mapping[str, Any],
) -> SpatialData:
    """Return a slide with tiles, their table and tissue, as this package makes them.

    Squares have a side of ``size_um`` about the centres of the tiles, which may be off by the rounding to whole pixels.
    ``slide`` is what is known of the file of the slide.
    """
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import get_transformation

    transformations = get_transformation(image, get_all=True)
    centres = (tiles.boxes[:, :2] + tiles.boxes[:, 2:]) / 2
    (x, y), half = centres.T, size_um / mpp / 2
    squares = GeoDataFrame(geometry=shapely.box(x - half, y - half, x + half, y + half), index=tiles.ids)
    shapes = {_keys.TILES: ShapesModel.parse(squares, transformations=transformations)}
    if tissue is not None:
        matrix = to_pixels(tissue, image, "the outlines of tissue")
        areas, _ = checked_areas(tissue.geometry.to_numpy(), list(map(str, tissue.index)), "outlines of tissue")
        moved = shapely.transform(areas, lambda points: points @ matrix[:2, :2].T + matrix[:2, 2])
        frame = GeoDataFrame(plain_columns(tissue, ("geometry",)).reset_index(drop=True), geometry=moved)
        shapes[_keys.TISSUE] = ShapesModel.parse(frame, transformations=transformations)
    inside: NDArray[np.bool_] = np.all((centres >= 0) & (centres < image_size(image)), axis=1)
    if not inside.any():
        raise ValueError(f"the centres of all {len(centres)} tiles lie off the image. Is it the image of these tiles?")
    if not inside.all():
        warn(
            f"the centres of {int((~inside).sum())} of {len(inside)} tiles lie off the image; they are marked obs["
            f"{_keys.VALID!r}]=False and get NaN features."
        )
    table = _table(tiles, centres, inside)
    record: _keys.RegionRecord = {
        "element": _keys.TILES,
        "image": image_key,
        "coordinate_system": systems_of(image)[0],
        "mpp": mpp,
        "frame": dict(frame_of(image)),
    }
    facts: dict[str, Any] = {
        "size_um": size_um,
        "size_px": tiles.size_px,
        "overlap_um": round(tiles.overlap * size_um, 6),
    }
    sdata = SpatialData(images={image_key: image}, shapes=shapes, tables={_keys.tile_table(_keys.TILES): table})
    made_from: tuple[str, ...] = ()
    if tissue is not None:
        outlines = digest(shapely.get_coordinates(shapes[_keys.TISSUE].geometry.to_numpy()))
        for records in (table.uns, sdata.attrs):
            _keys.write_provenance(records, _keys.TISSUE, function=function, outlines=outlines, image=image_key)
        made_from, facts["tissue_key"] = (_keys.TISSUE,), _keys.TISSUE
    _keys.write_provenance(
        table.uns, _keys.PATCHES, *made_from, function=function, regions={_keys.TILES: record}, **facts
    )
    for name, values in features.items():
        key = _keys.features(name)
        if key in table.obsm:
            raise ValueError(
                f"several tables of features would be stored as obsm[{key!r}]; choose some with features=."
            )
        put_features(table, key, values, function=function, encoder=name, size_um=size_um)
    record_scale(sdata, sample=sample, mpp={image_key: mpp}, slides={image_key: dict(slide)} if slide else None)
    return sdata


def put_features(
    table: AnnData, key: str, values: NDArray[np.float32], *, function: str, encoder: str | None, **size: float
) -> None:
    """Write features ``(n, d)`` of the tiles, NaN where a tile is not valid, and where they come from.

    ``size`` is ``size_um`` or, if models may take patches of nearly their size as well, ``about_um``.
    """
    inside = table.obs[_keys.VALID].to_numpy()
    table.obsm[key] = np.where(inside[:, None], values, np.float32(np.nan))
    _keys.write_provenance(table.uns, key, function=function, encoder=encoder, patches_key=_keys.PATCHES, **size)


def _table(tiles: Tiles, centres: Floats, inside: NDArray[np.bool_]) -> AnnData:
    """Return the table of tiles, without records."""
    from anndata import AnnData
    from spatialdata.models import TableModel

    obs = tiles.obs.set_axis(tiles.ids.astype(str).astype(object))
    key = "tile_id"
    obs = obs.assign(**{"region": pd.Categorical([_keys.TILES] * len(obs)), key: tiles.ids.to_numpy()})
    obs[_keys.VALID] = inside
    table = AnnData(csr_matrix((len(obs), 0), dtype=np.float32), obs=obs, obsm={"spatial": centres})
    return TableModel.parse(table, region=_keys.TILES, region_key="region", instance_key=key)
