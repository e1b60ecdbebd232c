"""One section as a SpatialData object: the conventions that readers share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spade._checks import plural
from spade.core.errors import warn

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

from spade._keys import TABLE
from spade.io._recorded.scale import record_scale

IMAGE, SPOTS = "image", "spots"


def section(
    image: xr.DataTree,
    adata: AnnData,
    centres: np.ndarray,
    radius: float,
    *,
    sample: str,
    mpp: float,
    pitch_um: float | None = None,
    shapes: Mapping[str, GeoDataFrame] | None = None,
) -> SpatialData:
    """Join image, spots and table of one section.

    Parameters
    ----------
    image
        Multiscale image element.
    adata
        Expression, one row per spot; it is modified. Columns ``region`` and ``spot_id`` of its own are kept, and the
        table is joined to the spots by ``spots_region`` and ``spots_spot_id`` then.
    centres
        Pixel (x, y) of each spot at the image's finest level, ``(n, 2)``.
    radius
        Radius of the spots in pixels.
    sample, mpp, pitch_um
        Recorded with :func:`spade.io._recorded.scale.record_scale`; ``pitch_um`` only if the spots form a lattice.
    shapes
        Further shapes elements.
    """
    import geopandas as gpd
    import pandas as pd
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel, TableModel

    ids = pd.Index(adata.obs_names.astype(str), name=None, dtype=object)
    adata.obs_names = ids
    adata.uns.pop(TableModel.ATTRS_KEY, None)
    region_key, instance_key = (free_column(adata, name) for name in ("region", "spot_id"))
    adata.obs[region_key] = pd.Categorical([SPOTS] * len(ids))
    adata.obs[instance_key] = ids.to_numpy()
    adata.obsm["spatial"] = np.asarray(centres, dtype=np.float64)
    circles = gpd.GeoDataFrame(
        {"radius": np.full(len(ids), float(radius))}, geometry=gpd.points_from_xy(*adata.obsm["spatial"].T), index=ids
    )
    sdata = SpatialData(
        images={IMAGE: image},
        shapes={SPOTS: ShapesModel.parse(circles), **(shapes or {})},
        tables={TABLE: TableModel.parse(adata, region=SPOTS, region_key=region_key, instance_key=instance_key)},
    )
    record_scale(
        sdata, sample=sample, mpp={IMAGE: mpp}, pitch_um=None if pitch_um is None else {SPOTS: float(pitch_um)}
    )
    return sdata


def free_column(adata: AnnData, name: str) -> str:
    """Return the name of a column that the table does not have."""
    return name if name not in adata.obs else free_column(adata, f"{SPOTS}_{name}")


def check_inside(centres: np.ndarray, width: int, height: int, sample: str) -> None:
    """Raise if every spot lies outside the image, warn if some do."""
    outside = ~((centres >= 0) & (centres < (width, height))).all(axis=1)
    if not outside.any():
        return
    low, high = centres.min(axis=0), centres.max(axis=0)
    image = (
        f"outside the image of {width} × {height} pixels (spots span x {low[0]:.0f} to {high[0]:.0f} and y "
        f"{low[1]:.0f} to {high[1]:.0f})"
    )
    if outside.all():
        raise ValueError(
            f"{sample}: all {plural(len(centres), 'spot')} lie {image}. Do the coordinates belong to this image at "
            "this resolution, and are x and y in this order?"
        )
    warn(f"{sample}: {outside.sum()} of {plural(len(centres), 'spot')} lie {image}.")
