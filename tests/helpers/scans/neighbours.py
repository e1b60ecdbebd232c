"""Slides in the layouts of LazySlide 0.13 (wsidata 0.12) and sopa 2.2, as their objects are after they were saved."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
from anndata import AnnData
from geopandas import GeoDataFrame
from shapely import box
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import Scale

from spade.io._recorded.frames import image_size


class Wsi(SpatialData):
    """A ``WSIData``: a SpatialData that knows the file of its slide."""

    reader = SimpleNamespace(file=None)


def spec_of(px=224, *, mpp=0.5, stride=None, tissue="tissues", base=1.0):
    """What LazySlide records of tiles."""
    return {
        "height": px, "width": px, "stride_height": stride or px, "stride_width": stride or px, "mpp": mpp,
        "ops_level": 0, "ops_downsample": 1.0, "base_level": 0, "base_downsample": base, "tissue_name": tissue,
    }  # fmt: skip


def properties_of(size, mpp):
    """What wsidata records of a slide of a width and height."""
    return {"shape": [size[1], size[0]], "n_level": 1, "mpp": mpp, "magnification": None, "bounds": [0, 0, *size]}


def boxes_at(corners, side):
    return [box(x, y, x + side, y + side) for x, y in corners]


def feature_table(values, region, ids, region_key, instance_key, **uns):
    obs = pd.DataFrame({instance_key: ids, region_key: pd.Categorical([region] * len(ids))}, index=list(map(str, ids)))
    table = AnnData(np.asarray(values, dtype=np.float32), obs=obs, uns=uns)
    return TableModel.parse(table, region=region, region_key=region_key, instance_key=instance_key)


def lazyslide(size, corners, *, side=224, mpp=0.5, spec=None, features=None, tissue=None, file=None, **columns):
    """A slide of LazySlide with tiles of ``side`` px at upper left ``corners``, and features by model."""
    ids = np.arange(len(corners))
    outlines = [box(0, 0, *size)] if tissue is None else tissue
    tiles = GeoDataFrame({"tile_id": ids, "tissue_id": 0, **columns}, geometry=boxes_at(corners, side))
    wsi = Wsi(
        shapes={
            "tissues": ShapesModel.parse(GeoDataFrame({"tissue_id": range(len(outlines))}, geometry=outlines)),
            "tiles": ShapesModel.parse(tiles),
        },
        tables={
            f"{name}_tiles": feature_table(values, "tiles", ids, "library_id", "tile_id")
            for name, values in (features or {}).items()
        },
        attrs={"tile_spec": {"tiles": spec or spec_of()}, "slide_properties": properties_of(size, mpp)},
    )
    wsi.reader = SimpleNamespace(file=file)
    return wsi


def sopa(image, corners, *, side=112, level=2.0, mpp=0.5, features=None, tissue=None, patch_width=None, key="wsi"):
    """A slide of sopa with patches of ``side`` px of a level at ``corners``, cut at the tissue, and embeddings."""
    whole = boxes_at(corners, side)
    size = image_size(image)
    scale = {"global": Scale([level, level], axes=("x", "y"))}
    cut = whole if tissue is None else [one.intersection(tissue) for one in whole]
    edges = [[x, y, x + side, y + side] for x, y in corners]
    patches = GeoDataFrame({"ilocs": [(0, i) for i in range(len(cut))], "bboxes": edges}, geometry=cut)
    shapes = {"embeddings_patches": ShapesModel.parse(patches, transformations=scale)}
    if tissue is not None:
        shapes["region_of_interest"] = ShapesModel.parse(GeoDataFrame(geometry=[tissue]), transformations=scale)
    config = {
        "patch_width": patch_width or side, "patch_overlap": 0, "level": 1, "level_downsample": level,
        "tile_resize_factor": 1.0,
    }  # fmt: skip
    tables = {}
    for name, values in (features or {}).items():
        table = feature_table(values, "embeddings_patches", np.arange(len(corners)), "region", "instance")
        table.uns["embedding_config"] = {**config, "model_name": name}
        table.obsm["spatial"] = np.asarray(corners, dtype=float) + side / 2
        tables[f"{name}_embeddings"] = table
    attrs = {"slide_properties": properties_of(size, mpp), "tissue_segmentation_image": key}
    return SpatialData(images={key: image}, shapes=shapes, tables=tables, attrs=attrs)
