"""A small section of which every pixel is known, and what a plot of it shows."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.collections import EllipseCollection
from scipy.sparse import csr_matrix
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel

import spade as sp
from spade._samples.experts import palette

MPP = 2.0
RED = (200, 30, 40)


def pixels(height=240, width=300, seed=0):
    """A grey, noisy image whose upper left corner is red."""
    image = np.random.default_rng(seed).integers(100, 140, (3, height, width)).astype(np.uint8)
    image[:, :60, :50] = np.array(RED, dtype=np.uint8)[:, None, None]
    return image


def grid(n_columns=7, n_rows=5):
    """Spot centres in pixels, 40 apart."""
    x, y = np.meshgrid(30 + 40 * np.arange(n_columns), 30 + 40 * np.arange(n_rows))
    return np.column_stack([x.ravel(), y.ravel()]).astype(float)


def section(centres=None, regions=("spots",), scale_factors=(2,), genes=0):
    """Sections of spots 20 px wide on images of 2 µm/px, with two experts by hand; in ``"b"`` spots are named alike."""
    centres = grid() if centres is None else centres
    images, shapes, tables = {}, {}, []
    ids = pd.Index([f"s{i}" for i in range(len(centres))])
    for seed, region in enumerate(regions):
        image = Image2DModel.parse(
            pixels(seed=seed), dims=("c", "y", "x"), c_coords=list("rgb"), scale_factors=list(scale_factors) or None
        )
        images[f"{region}_image"] = image
        circles = gpd.GeoDataFrame(
            {"radius": np.full(len(ids), 10.0)}, geometry=gpd.points_from_xy(*centres.T), index=ids
        )
        shapes[region] = ShapesModel.parse(circles)
        counts = np.random.default_rng(seed).poisson(3, (len(ids), genes)).astype(np.float32)
        obs = pd.DataFrame({"region": region, "spot_id": ids}, index=[f"{region}_{i}" for i in ids])
        tables.append((counts, obs))
    obs = pd.concat([obs for _, obs in tables])
    obs["region"] = obs["region"].astype("category")
    table = AnnData(
        csr_matrix(np.vstack([counts for counts, _ in tables])),
        obs=obs,
        var=pd.DataFrame(index=[f"G{g}" for g in range(genes)]),
    )
    table = TableModel.parse(table, region=list(regions), region_key="region", instance_key="spot_id")
    sdata = SpatialData(images=images, shapes=shapes, tables={"table": table})
    sp.pp.patches(sdata, image_key={r: f"{r}_image" for r in regions}, mpp=MPP, size_um=40.0, size_px=20)
    weight = np.linspace(0.02, 0.98, table.n_obs).astype(np.float32)
    return with_experts(sdata, np.column_stack([weight, 1 - weight]))


def with_experts(sdata, weights):
    """Write what ``embed`` would; rows that are not valid get NaN."""
    table = sdata["table"]
    weights = np.where(table.obs["spade_valid"].to_numpy()[:, None], weights, np.nan).astype(np.float32)
    table.obsm["spade_expert_weights"] = weights
    names = np.array([str(e) for e in range(weights.shape[1])])
    best = names[np.argmax(np.nan_to_num(weights, nan=-1), axis=1)].astype(object)
    best[np.isnan(weights).any(1)] = None
    table.obs["spade_expert"] = pd.Categorical(best, categories=names)
    table.uns["spade_expert_colors"] = palette(len(names))
    return sdata


def spots_of(ax):
    (spots,) = [c for c in ax.collections if isinstance(c, EllipseCollection)]
    return spots


def labels_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def shown_at(ax, x, y):
    """RGB of the rendered figure at a point of the data."""
    ax.figure.canvas.draw()
    canvas = np.asarray(ax.figure.canvas.buffer_rgba())
    column, row = ax.transData.transform((x, y))
    return canvas[canvas.shape[0] - 1 - int(row), int(column), :3].astype(int)
