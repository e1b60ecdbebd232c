"""Visium HD at its size: what is done with 200,000 bins, against reading their store once.

``python benchmarks/bins.py``; also neighbours by a tree against squidpy's graph. Exits with 1 if a limit is broken.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from anndata import AnnData
from scipy.sparse import csr_matrix
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel, ShapesModel, TableModel

import spade as sp
from spade.pp._smooth_expression import _lattice_pairs

MPP, SIDE_UM = 0.5, 8
REGION = "square_008um"
#: Seconds of all three together, per second of reading.
LIMIT = 3.0


def make(path, n_bins, n_genes, per_bin):
    """Write a square of bins of 8 µm with H&E-like noise below, and ``per_bin`` of the genes in each bin."""
    side = int(np.sqrt(n_bins))
    row, column = (axis.ravel() for axis in np.indices((side, side)))
    n, px = side * side, SIDE_UM / MPP
    rng = np.random.default_rng(0)
    genes = np.sort((rng.random((n, per_bin)) ** 2 * n_genes).astype(np.int32), axis=1)
    counts = csr_matrix(
        (rng.integers(1, 4, genes.size).astype(np.float32), genes.ravel(), np.arange(0, genes.size + 1, per_bin))
    )
    counts.sum_duplicates()
    obs = pd.DataFrame(
        {"array_row": row, "array_col": column, "location_id": np.arange(n)}, index=[f"b{i}" for i in range(n)]
    )
    obs["region"] = pd.Categorical([REGION] * n)
    var = pd.DataFrame(index=[f"G{i}" for i in range(counts.shape[1])])
    table = TableModel.parse(
        AnnData(counts, obs=obs, var=var), region=REGION, region_key="region", instance_key="location_id"
    )
    x, y = column * px, row * px
    squares = gpd.GeoDataFrame(geometry=shapely.box(x, y, x + px, y + px), index=obs["location_id"].to_numpy())
    pixels = da.random.default_rng(0).integers(
        150, 250, (3, int(side * px), int(side * px)), dtype=np.uint8, chunks=(3, 2048, 2048)
    )
    image = Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=[*"rgb"], scale_factors=[2, 2])
    sdata = SpatialData(images={"he": image}, shapes={REGION: ShapesModel.parse(squares)}, tables={"bins_8": table})
    sdata.write(path)
    return n


def read(path):
    """Read the store: tables, shapes and every pixel of the finest level."""
    sdata = read_zarr(path)
    sdata.images["he"]["scale0"]["image"].data.sum().compute()
    return sdata


def seconds(run):
    """Return how long a function takes, and its result."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def neighbours(n_bins):
    """Return the seconds of squidpy's graph and of ours; both must find the same pairs."""
    import squidpy as sq

    side = int(np.sqrt(n_bins))
    points = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2).astype(float)
    ours, pairs = seconds(lambda: _lattice_pairs(points, "bins"))
    reach = (np.sqrt(2) + 2) / 2
    if hasattr(sq.gr, "neighbors"):
        theirs, graph = seconds(lambda: sq.gr.neighbors.RadiusBuilder(reach).build(points)[0])
    else:
        scratch = AnnData(obsm={"spatial": points})
        theirs, graph = seconds(
            lambda: sq.gr.spatial_neighbors(scratch, coord_type="generic", radius=reach, copy=True)[0]
        )
    if graph.nnz != 2 * len(pairs):
        raise SystemExit(f"squidpy finds {graph.nnz // 2} pairs, we find {len(pairs)}")
    return theirs, ours


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--bins", type=int, default=200_000)
    parser.add_argument("--genes", type=int, default=18_000)
    parser.add_argument("--per-bin", type=int, default=200)
    parser.add_argument("--no-limit", action="store_true", help="print only")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hd.zarr"
        n = make(path, options.bins, options.genes, options.per_bin)
        sp.pp.select_genes(sp.datasets.toy(1, 40))  # libraries are loaded before the clock runs
        took = {}
        read(path)
        took["read the store once"], sdata = seconds(lambda: read(path))
        took["patches"], _ = seconds(lambda: sp.pp.patches(sdata))
        took["select_genes"], _ = seconds(lambda: sp.pp.select_genes(sdata))
        took["bin_expression"], _ = seconds(lambda: sp.pp.bin_expression(sdata, size_um=56, from_="bins"))
    took["squidpy's graph of neighbours"], took["neighbours of smooth_expression"] = neighbours(n)
    print(f"{n:,} bins of {SIDE_UM} µm, {options.genes:,} genes, {options.per_bin} counted in a bin\n")
    print("| what | s |\n| --- | --- |")
    for name, value in took.items():
        print(f"| {name} | {value:.2f} |")
    ratio = sum(took[name] for name in ("patches", "select_genes", "bin_expression")) / took["read the store once"]
    print(f"\nall three against reading: {ratio:.2f} (at most {LIMIT})")
    if ratio > LIMIT and not options.no_limit:
        raise SystemExit(1)
    return {"ratio": ratio, **took}


if __name__ == "__main__":
    main()
