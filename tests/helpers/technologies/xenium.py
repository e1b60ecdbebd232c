"""The output folder of Xenium: version 2 and 3 (Xenium Ranger), and 4, with an H&E image that was registered later."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
import zarr

from helpers.technologies.tenx import GENES, IDS, picture, rates, write_matrix

PIXEL, HE_MPP = 0.2125, 0.5
#: Side of the region in µm, and cells along it.
SIDE_UM, N = 200.0, 12
#: From pixels (x, y) of the H&E image to pixels of the morphology image: turned by a quarter, and moved.
ALIGNMENT = np.array([[0, -HE_MPP / PIXEL, (SIDE_UM + 10) / PIXEL], [HE_MPP / PIXEL, 0, -5 / PIXEL], [0, 0, 1]])
CONTROLS = ["NegControlProbe_00042", "NegControlCodeword_0500", "UnassignedCodeword_0001", "BLANK_0069"]


@dataclass(frozen=True)
class Written:
    """What was written: transcripts in µm."""

    transcripts: pd.DataFrame


def write_xenium(folder: Path, *, version: str = "3.0.0.15") -> Written:
    """Write the folder of an experiment: cells on a grid, transcripts around them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    specs = {"major_version": 5, "analysis_sw_version": f"xenium-{version}", "pixel_size": PIXEL, "run_name": "tiny"}
    (folder / "experiment.xenium").write_text(json.dumps(specs))
    y, x = ((axis.ravel() + 0.5) * SIDE_UM / N for axis in np.indices((N, N)))
    x, y = x + rng.normal(0, 1, N * N), y + rng.normal(0, 1, N * N)
    radius = rng.uniform(4, 6, N * N)
    prefix = rng.choice(2**32 - 1, N * N, replace=False).astype(np.uint32)
    ids = np.array(["".join(chr(ord("a") + int(d, 16)) for d in f"{p:08x}") + "-1" for p in prefix])
    _write_zarr(folder / "cells.zarr.zip", prefix, x, y, radius)
    counts = rng.poisson(1.5 * rates(x / SIDE_UM, y / SIDE_UM))
    write_matrix(folder / "cell_feature_matrix.h5", np.hstack([counts, rng.poisson(0.1, (N * N, 1))]), ids,
                 [*GENES, CONTROLS[0]], [*IDS, CONTROLS[0]],
                 ["Gene Expression"] * len(GENES) + ["Negative Control Probe"])  # fmt: skip
    cells = pd.DataFrame({"cell_id": ids, "x_centroid": x, "y_centroid": y, "transcript_counts": counts.sum(1)})
    cells["cell_area"], cells["nucleus_area"] = np.pi * radius**2, np.pi * (radius / 2) ** 2
    cells.to_parquet(folder / "cells.parquet", index=False)
    for name, share in (("cell", 1.0), ("nucleus", 0.5)):
        _outlines(ids, x, y, radius * share).to_parquet(folder / f"{name}_boundaries.parquet", index=False)
    transcripts = _transcripts(rng, ids, x, y, counts)
    transcripts.to_parquet(folder / "transcripts.parquet", index=False, row_group_size=2_000)
    _write_images(folder, version)
    return Written(transcripts)


def _write_zarr(path: Path, prefix, x, y, radius) -> None:
    """Write ids, summary and masks of the cells (1) and their nuclei (0), as zarr of version 2 in a zip file."""
    n_px = int(SIDE_UM / PIXEL)
    yy, xx = (np.arange(n_px) + 0.5 for _ in range(2))
    with zarr.storage.ZipStore(path, mode="w") as store:
        group = zarr.open_group(store, mode="w", zarr_format=2)
        group.create_array("cell_id", data=np.stack([prefix, np.ones_like(prefix)], 1))
        summary = np.stack([x, y, np.pi * radius**2, x, y, np.pi * radius**2 / 4, np.zeros_like(x), np.ones_like(x)], 1)
        names = ["cell_centroid_x", "cell_centroid_y", "cell_area", "nucleus_centroid_x", "nucleus_centroid_y"]
        names += ["nucleus_area", "z_level", "nucleus_count"]
        group.create_array("cell_summary", data=summary, attributes={"column_names": names})
        for index, share in ((0, 0.5), (1, 1.0)):
            mask = np.zeros((n_px, n_px), np.uint32)
            for i, (cx, cy, r) in enumerate(zip(x / PIXEL, y / PIXEL, radius * share / PIXEL, strict=True)):
                at = slice(max(int(cy - r) - 1, 0), int(cy + r) + 2), slice(max(int(cx - r) - 1, 0), int(cx + r) + 2)
                near = (yy[at[0], None] - cy) ** 2 + (xx[None, at[1]] - cx) ** 2 < r**2
                mask[at][near & (mask[at] == 0)] = i + 1
            group.create_array(f"masks/{index}", data=mask, chunks=(400, 400))
            group.create_array(f"polygon_sets/{index}/cell_index", data=np.arange(len(x), dtype=np.uint32))


def _outlines(ids, x, y, radius) -> pd.DataFrame:
    """Vertices of polygons of 13 points, the last being the first."""
    angle = np.linspace(0, 2 * np.pi, 13)
    frame = pd.DataFrame({"cell_id": np.repeat(ids, 13)})
    frame["vertex_x"] = (x[:, None] + radius[:, None] * np.cos(angle)).ravel()
    frame["vertex_y"] = (y[:, None] + radius[:, None] * np.sin(angle)).ravel()
    return frame.assign(label_id=np.repeat(np.arange(1, len(ids) + 1), 13))


def _transcripts(rng, ids, x, y, counts) -> pd.DataFrame:
    """Every count of a cell as a molecule near its centre, some of low quality, and control probes."""
    cell, gene = np.nonzero(counts)
    n = counts[cell, gene]
    cell, gene = np.repeat(cell, n), np.repeat(gene, n)
    names = np.r_[GENES[gene], rng.choice(CONTROLS, 300)]
    cell = np.r_[cell, rng.integers(0, len(ids), 300)]
    order = rng.permutation(len(names))
    frame = pd.DataFrame({"transcript_id": np.arange(len(names), dtype=np.uint64), "cell_id": ids[cell][order]})
    frame["overlaps_nucleus"], frame["feature_name"] = np.uint8(0), names[order]
    frame["x_location"] = (x[cell][order] + rng.normal(0, 3, len(names))).astype(np.float32)
    frame["y_location"] = (y[cell][order] + rng.normal(0, 3, len(names))).astype(np.float32)
    frame["z_location"], frame["qv"] = np.float32(12), rng.uniform(10, 40, len(names)).astype(np.float32)
    return frame.assign(fov_name="A1", is_gene=~np.isin(frame["feature_name"], CONTROLS))


def _write_images(folder: Path, version: str) -> None:
    n_px = int(SIDE_UM / PIXEL)
    dapi = np.random.default_rng(2).integers(0, 4000, (1, n_px, n_px), dtype=np.uint16)
    (folder / "morphology_focus").mkdir()
    fourth = version.startswith("4")
    name = "ch0000_dapi.ome.tif" if fourth else "morphology_focus_0000.ome.tif"
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI"]}, "PhysicalSizeX": PIXEL, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(folder / "morphology_focus" / name, dapi, ome=True, metadata=metadata)
    side = int((SIDE_UM + 20) / HE_MPP)
    he, kind, axes = picture(side, side), "rgb", "YXS"
    if fourth:  # some files hold one page per colour
        he, kind, axes = np.moveaxis(he, -1, 0), "minisblack", "CYX"
    tifffile.imwrite(folder / "tiny_he_image.ome.tif", he, ome=True, photometric=kind, metadata={"axes": axes})
    pd.DataFrame(ALIGNMENT).to_csv(folder / "tiny_he_imagealignment.csv", header=False, index=False)
