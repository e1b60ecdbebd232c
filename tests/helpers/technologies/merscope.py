"""The output folder of MERSCOPE for one region, and an H&E image of the same section that was registered later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from geopandas import GeoDataFrame
from shapely import MultiPolygon, Point, Polygon

from helpers.technologies.tenx import GENES, picture, rates

PIXEL, HE_MPP = 0.108, 0.5
#: Side of the region in µm, and cells along it.
SIDE_UM, N = 200.0, 12
#: From µm (x, y) to pixels of the mosaic, as in ``micron_to_mosaic_pixel_transform.csv``: the region begins below 0.
TO_MOSAIC = np.array([[1 / PIXEL, 0, 31.5], [0, 1 / PIXEL, 12.25], [0, 0, 1]])
#: From pixels (x, y) of the H&E image to pixels of the mosaic: turned by a quarter, and moved.
HE_TO_MOSAIC = np.array([[0, -HE_MPP / PIXEL, (SIDE_UM + 10) / PIXEL], [HE_MPP / PIXEL, 0, -5 / PIXEL], [0, 0, 1]])
BLANKS = ["Blank-1", "Blank-22"]


def write_merscope(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write the folder and ``he.tif`` beside it; return the transcripts, and the counts of cells by their centres."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = ((axis.ravel() + 0.5) * SIDE_UM / N for axis in np.indices((N, N)))
    x, y = (axis + rng.normal(0, 1, N * N) for axis in (x, y))
    ids = pd.Index(2_054_000_000_000_100 + rng.permutation(N * N), name="EntityID")
    counts = rng.poisson(1.5 * rates(x / SIDE_UM, y / SIDE_UM))
    table = pd.DataFrame(counts, index=ids.rename("cell"), columns=GENES)
    table.assign(**dict.fromkeys(BLANKS, 0)).to_csv(folder / "cell_by_gene.csv")
    _write_cells(folder, ids, x, y)
    transcripts = _transcripts(rng, ids, x, y, counts)
    transcripts.to_csv(folder / "detected_transcripts.csv")
    _write_images(folder)
    return transcripts, table.set_axis(pd.MultiIndex.from_arrays([x, y], names=["x", "y"]))


def _write_cells(folder: Path, ids: pd.Index, x: np.ndarray, y: np.ndarray) -> None:
    """Write what is known of cells, and their outlines at two depths of seven."""
    facts = pd.DataFrame({"fov": 0, "volume": 900.0, "center_x": x, "center_y": y}, index=ids)
    facts["min_x"], facts["min_y"], facts["max_x"], facts["max_y"] = x - 6, y - 6, x + 6, y + 6
    facts.assign(anisotropy=1.1, DAPI_raw=1e5).to_csv(folder / "cell_metadata.csv")
    outlines = [MultiPolygon([Polygon(Point(place).buffer(6, 3).exterior)]) for place in zip(x, y, strict=True)]
    layers = []
    for z in (0, 3):
        frame = GeoDataFrame({"ID": np.arange(len(ids)), "EntityID": ids, "ZIndex": z}, geometry=outlines)
        layers.append(frame.assign(Type="cell", ZLevel=1.5 * (z + 1), Name=None, ParentID=None, ParentType=None))
    GeoDataFrame(pd.concat(layers)).rename_geometry("Geometry").to_parquet(folder / "cell_boundaries.parquet")


def _transcripts(rng, ids, x, y, counts) -> pd.DataFrame:
    """Every count of a cell as a molecule near its centre, and blank barcodes; ``x`` and ``y`` are those of the fov."""
    cell, gene = np.nonzero(counts)
    n = counts[cell, gene]
    cell = np.r_[np.repeat(cell, n), rng.integers(0, len(ids), 200)]
    names = np.r_[np.repeat(GENES[gene], n), rng.choice(BLANKS, 200)]
    order = rng.permutation(len(names))
    cell, names = cell[order], names[order]
    frame = pd.DataFrame({"barcode_id": pd.factorize(names)[0]}, index=np.sort(rng.choice(10**6, len(names), False)))
    frame["global_x"], frame["global_y"] = (axis[cell] + rng.normal(0, 3, len(cell)) for axis in (x, y))
    frame["global_z"] = rng.integers(0, 7, len(cell)).astype(float)
    frame["x"], frame["y"] = frame["global_x"] / PIXEL + 500, frame["global_y"] / PIXEL + 700
    return frame.assign(fov=0, gene=names, transcript_id="ENST00000025301.3", cell_id=ids[cell])


def _write_images(folder: Path) -> None:
    images = folder / "images"
    np.savetxt(images / "micron_to_mosaic_pixel_transform.csv", TO_MOSAIC)
    n_px = int(SIDE_UM / PIXEL) + 50
    for stain in ("DAPI", "PolyT"):
        mosaic = np.random.default_rng(2).integers(0, 4000, (n_px, n_px), dtype=np.uint16)
        tifffile.imwrite(images / f"mosaic_{stain}_z3.tif", mosaic)
    side = int((SIDE_UM + 20) / HE_MPP)
    tifffile.imwrite(folder.parent / "he.tif", picture(side, side), photometric="rgb")
