"""Eight small samples, written with the columns and file names of HEST-1k, and a quick encoder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import geopandas as gpd
import h5py
import numpy as np
import pandas as pd
import tifffile
from scipy.sparse import csr_matrix
from shapely.geometry import box

MPP, PITCH, SIDE = 0.8, 125.0, 850  # µm/px; pixels between spots (100 µm); pixels of an image
COLUMNS = (
    "dataset_title,id,image_filename,organ,disease_state,oncotree_code,species,patient,st_technology,"
    "data_publication_date,license,study_link,download_page_link1,inter_spot_dist,spot_diameter,spots_under_tissue,"
    "preservation_method,nb_genes,treatment_comment,pixel_size_um_embedded,pixel_size_um_estimated,magnification,"
    "fullres_px_width,fullres_px_height,tissue,disease_comment,subseries,hest_version_added"
).split(",")
HUMAN, MOUSE = "Homo sapiens", "Mus musculus"
#: id, organ, species, technology, patient, study, genes by the table.
SAMPLES = [
    ("TENX1", "Breast", HUMAN, "Visium", "Patient 1", "Study A", 17_943),
    ("TENX2", "Breast", HUMAN, "Visium", "patient 1 ", "Study B", 17_943),
    ("TENX3", "Breast", HUMAN, "Visium", "   ", "Study A", 17_943),
    ("TENX4", "Breast", HUMAN, "Visium", None, "Study A", 17_943),
    ("TENX5", "Breast", HUMAN, "Visium", "BC7", "Study A", 1_186),
    ("TENX6", "Brain", HUMAN, "Visium", "BC7", "Study A", 17_943),
    ("TENX7", "Brain", MOUSE, "Visium", None, "Study C", 19_465),
    ("TENX8", "Breast", HUMAN, "Xenium", None, "Study D", 541),
]
GENES = 60
#: Genes of a Xenium panel, and control probes that are in its table as well, where genes have true names.
PANEL, CONTROLS = 52, ("NegControlProbe_00042", "antisense_ADCY4", "BLANK_0069")


def facts_of(row: tuple[Any, ...]) -> dict[str, Any]:
    """Metadata of a sample, as in the table and its JSON; what is not known is None."""
    name, organ, species, technology, patient, study, n_genes = row
    lattice = technology == "Visium"
    facts: dict[str, Any] = dict.fromkeys(COLUMNS)
    return facts | {
        "dataset_title": study,
        "id": name,
        "image_filename": f"{name}.tif",
        "organ": organ,
        "disease_state": "Cancer" if species == HUMAN else "Healthy",
        "oncotree_code": "IDC" if species == HUMAN else None,
        "species": species,
        "patient": patient,
        "st_technology": technology,
        "inter_spot_dist": 100.0 if lattice else None,
        "spot_diameter": 55.0 if lattice else None,
        "spots_under_tissue": 36,
        "nb_genes": n_genes,
        "pixel_size_um_embedded": 0.2646,
        "pixel_size_um_estimated": MPP,
        "fullres_px_width": SIDE,
        "fullres_px_height": SIDE,
        "hest_version_added": "v1_0_0",
    }


def section_of(
    number: int, row: tuple[Any, ...], genes: dict[str, list[str]] | None = None
) -> tuple[np.ndarray, ad.AnnData]:
    """Picture and table of a sample: two kinds of tissue that differ in colour and in genes.

    A Xenium sample has pseudo-spots on a square lattice, as HEST makes them of transcripts.
    """
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:6, :6]
    shifted = x + (y % 2) / 2 if row[3] == "Visium" else x
    height = np.sqrt(3) / 2 if row[3] == "Visium" else 1
    centres = np.column_stack([shifted.ravel(), height * y.ravel()]) * PITCH + 90
    kind = (x.ravel() + number) % 2
    picture = np.full((SIDE, SIDE, 3), 235, np.uint8)
    for (cx, cy), one in zip(centres.astype(int), kind, strict=True):
        noise = rng.integers(0, 40, (110, 110, 3))
        picture[cy - 55 : cy + 55, cx - 55 : cx + 55] = np.array([[200, 120, 160], [120, 80, 170]])[one] + noise
    counts = rng.poisson(np.where((np.arange(GENES) % 2) == kind[:, None], 6.0, 1.0)).astype(np.float32)
    names = [f"GENE{i}" if row[2] == HUMAN else f"Gene{i}" for i in range(GENES)]
    if genes is not None:
        names = genes[row[2]][:GENES]
        if row[3] == "Xenium":
            counts, names = counts[:, : PANEL + len(CONTROLS)], [*names[:PANEL], *CONTROLS]
    barcodes = [f"S{number}-{i}-1" for i in range(36)]
    adata = ad.AnnData(csr_matrix(counts), obs=pd.DataFrame(index=barcodes), var=pd.DataFrame(index=names))
    adata.obsm["spatial"] = centres
    return picture, adata


def write_folder(folder: Path, *, table: str = "HEST_v1_1_0.csv", genes: dict[str, list[str]] | None = None) -> Path:
    """Write all samples, with outlines of tissue and cells for some, and the table; ``genes`` by species."""
    for kind in ("wsis", "st", "metadata", "tissue_seg", "cellvit_seg"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    pd.DataFrame(map(facts_of, SAMPLES), columns=COLUMNS).to_csv(folder / table, index=False, encoding="utf-8-sig")
    for number, row in enumerate(SAMPLES):
        picture, adata = section_of(number, row, genes)
        tifffile.imwrite(folder / "wsis" / f"{row[0]}.tif", picture, tile=(256, 256), photometric="rgb")
        adata.write_h5ad(folder / "st" / f"{row[0]}.h5ad")
        (folder / "metadata" / f"{row[0]}.json").write_text(json.dumps(facts_of(row)))
    tissue = gpd.GeoDataFrame({"tissue_id": [0]}, geometry=[box(0, 0, SIDE, SIDE)])
    (folder / "tissue_seg" / "TENX1_contours.geojson").write_text(tissue.to_json())
    cells = gpd.GeoDataFrame({"class": ["Neoplastic"]}, geometry=[box(50, 50, 60, 60)])
    cells.to_parquet(folder / "cellvit_seg" / "TENX1_cellvit_seg.parquet")
    return folder


def write_patches(folder: Path, name: str, *, leave_out: int = 0, side: int = 140) -> None:
    """Cut HEST's patches out of a slide, at its own µm/px, and remove the slide."""
    picture = tifffile.imread(folder / "wsis" / f"{name}.tif")
    adata = ad.read_h5ad(folder / "st" / f"{name}.h5ad")
    corners = np.rint(adata.obsm["spatial"] - side / 2).astype(int)[leave_out:]
    (folder / "patches").mkdir(exist_ok=True)
    with h5py.File(folder / "patches" / f"{name}.h5", "w") as file:
        file["img"] = np.stack([picture[y : y + side, x : x + side] for x, y in corners])
        file["coords"] = corners
        file["barcode"] = np.array(adata.obs_names[leave_out:], dtype="S")[:, None]
    (folder / "wsis" / f"{name}.tif").unlink()


@dataclass
class Colours:
    """An encoder of mean colours and their spread, which counts its batches."""

    name: str = "colours"
    id: str = "colours-1"
    dim: int = 6
    input_px: int = 16
    mpp: float | None = None
    fail_at: int | None = None
    n_patches: int = 0
    batches: list[int] = field(default_factory=list)

    def encode(self, patches: np.ndarray, mpp: float) -> np.ndarray:
        if self.fail_at is not None and len(self.batches) == self.fail_at:
            raise KeyboardInterrupt
        self.batches.append(len(patches))
        values = patches.reshape(len(patches), -1, 3).astype(np.float32)
        return np.concatenate([values.mean(1), values.std(1)], axis=1) / 255
