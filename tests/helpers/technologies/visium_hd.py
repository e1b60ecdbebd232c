"""The output folder of Space Ranger for Visium HD: version 3 (bins) and 4 (bins and segmented cells)."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from helpers.technologies.tenx import picture, rates, write_matrix

MPP, ANGLE = 0.5, 0.02
#: Rows and columns of bins of 2 µm.
N = 96
COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]


def pixel(row: np.ndarray, column: np.ndarray, side_um: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the centre of a bin lies (x, y): the array is turned by a little over one degree."""
    u, v = (column + 0.5) * side_um / MPP, (row + 0.5) * side_um / MPP
    return 30 + np.cos(ANGLE) * u - np.sin(ANGLE) * v, 20 + np.sin(ANGLE) * u + np.cos(ANGLE) * v


def counts_of_small_bins(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and counts of the bins of 2 µm that are on tissue, in the order of a shuffled file."""
    rng = np.random.default_rng(seed)
    row, column = (axis.ravel() for axis in np.indices((N, N)))
    on_tissue = (row - N / 2) ** 2 + (column - N / 2) ** 2 < (0.48 * N) ** 2
    order = rng.permutation(np.flatnonzero(on_tissue))
    row, column = row[order], column[order]
    return row, column, rng.poisson(0.06 * rates(column / N, row / N))


def joined(row: np.ndarray, column: np.ndarray, counts: np.ndarray, factor: int):
    """Bins of ``factor`` × ``factor`` bins, added up one by one."""
    sums: dict[tuple[int, int], np.ndarray] = {}
    for r, c, values in zip(row // factor, column // factor, counts, strict=True):
        sums[int(r), int(c)] = sums.get((int(r), int(c)), 0) + values
    places = np.array(sorted(sums))
    return places[:, 0], places[:, 1], np.array([sums[int(r), int(c)] for r, c in places])


def write_visium_hd(folder: Path, *, version: int = 3, sides: tuple[int, ...] = (2, 8, 16)) -> Path:
    """Write the folder and return the full-resolution image."""
    spatial = folder / "spatial"
    spatial.mkdir(parents=True)
    n_px = int(N * 2 / MPP) + 60
    pixels = picture(n_px, n_px)
    image = folder.parent / f"{folder.name}_he.tif"
    tifffile.imwrite(image, pixels, photometric="rgb")
    small = {"hires": 0.5, "lowres": 0.1}
    for name, factor in small.items():
        size = (int(n_px * factor),) * 2
        Image.fromarray(pixels).resize(size).save(spatial / f"tissue_{name}_image.png")
    scales = {"tissue_hires_scalef": small["hires"], "tissue_lowres_scalef": small["lowres"], "microns_per_pixel": MPP}
    scales |= {"fiducial_diameter_fullres": 600.0, "regist_target_img_scalef": 1.0}
    (spatial / "scalefactors_json.json").write_text(json.dumps(scales | {"spot_diameter_fullres": 8 / MPP}))
    layout = {"file_format": "1.0", "transform": np.eye(3).ravel().tolist()}
    names = ("cytassist_colrow_to_spot_colrow", "spot_colrow_to_cytassist_colrow")
    names += ("microscope_colrow_to_spot_colrow", "spot_colrow_to_microscope_colrow")
    matrices = {name: np.eye(3).ravel().tolist() for name in names}
    with h5py.File(folder / "feature_slice.h5", "w") as file:
        file.attrs["metadata_json"] = json.dumps({"hd_layout_json": json.dumps(layout), "transform_matrices": matrices})
    for side in sides:
        _write_bins(folder / "binned_outputs" / f"square_{side:03}um", side, scales)
    if version == 4:
        _write_cells(folder / "segmented_outputs", scales)
    return image


def _write_bins(folder: Path, side: int, scales: dict[str, float]) -> None:
    (folder / "spatial").mkdir(parents=True)
    row, column, counts = counts_of_small_bins()
    if side > 2:
        row, column, counts = joined(row, column, counts, side // 2)
    n = -(-N * 2 // side)
    rows, columns = (axis.ravel() for axis in np.indices((n, n)))
    barcodes = np.array([f"s_{side:03}um_{r:05}_{c:05}-1" for r, c in zip(rows, columns, strict=True)])
    x, y = pixel(rows, columns, side)
    positions = pd.DataFrame(dict(zip(COLUMNS, (barcodes, 0, rows, columns, y, x), strict=True)))
    here = row * n + column
    positions.loc[here, "in_tissue"] = 1
    positions.to_parquet(folder / "spatial" / "tissue_positions.parquet", index=False)
    facts = scales | {"bin_size_um": float(side), "spot_diameter_fullres": side / MPP}
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(facts))
    write_matrix(folder / "filtered_feature_bc_matrix.h5", counts, barcodes[here])


def _write_cells(folder: Path, scales: dict[str, float]) -> None:
    """Write segmented cells: squares of 8 µm around 30 places, in pixels of the full-resolution image."""
    (folder / "spatial").mkdir(parents=True)
    rng = np.random.default_rng(1)
    u, v = rng.uniform(20, 170, (2, 30)) / MPP
    counts, half, features = rng.poisson(2 * rates(u / u.max(), v / v.max())), 4 / MPP, []
    for i, (x, y) in enumerate(zip(u, v, strict=True)):
        ring = [[x - half, y - half], [x + half, y - half], [x + half, y + half], [x - half, y + half]]
        geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
        features.append({"type": "Feature", "properties": {"cell_id": i + 1}, "geometry": geometry})
    (folder / "cell_segmentations.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(scales | {"spot_diameter_fullres": 8 / MPP}))
    write_matrix(folder / "filtered_feature_cell_matrix.h5", counts, [f"cellid_{i + 1:09d}-1" for i in range(30)])
