"""An object to save, whose values tell which one it is."""

from __future__ import annotations

import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import random as random_sparse
from shapely.geometry import Point
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel


def make(value: int = 1, n: int = 40, side: int = 200, chunk: int = 128) -> SpatialData:
    rng = np.random.default_rng(value)
    pixels = da.from_array(rng.integers(0, 255, (3, side, side), dtype=np.uint8), chunks=(3, chunk, chunk))
    image = Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=["r", "g", "b"], scale_factors=[2])
    ids = [f"spot_{i}" for i in range(n)]
    spots = gpd.GeoDataFrame(
        {"radius": np.full(n, 3.0)}, geometry=[Point(*p) for p in rng.random((n, 2)) * side], index=ids
    )
    adata = AnnData(random_sparse(n, 12, density=0.5, format="csr", dtype=np.float32, rng=rng))
    adata.obs_names = ids
    adata.obs["region"] = pd.Categorical(["spots"] * n)
    adata.obs["spot_id"] = ids
    adata.obs["value"] = value
    adata.obs["domain"] = pd.Categorical(rng.choice(["a", "b"], n))
    adata.obsm["X_spade"] = np.full((n, 4), value, np.float32)
    adata.uns["spade"] = {"X_spade": {"version": "1", "seed": value, "rate": 0.5, "done": True}}
    adata.uns["domain_colors"] = ["#ffffff", "#000000"]
    table = TableModel.parse(adata, region="spots", region_key="region", instance_key="spot_id")
    return SpatialData(
        images={"image": image},
        shapes={"spots": ShapesModel.parse(spots)},
        tables={"table": table},
        attrs={"spade": {"value": value, "mpp": {"image": 0.5}}},
    )
