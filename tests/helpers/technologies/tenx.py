"""What the two formats share: the matrix of 10x in HDF5, genes, and an H&E-like picture."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from scipy.sparse import csc_matrix

from helpers.texture import scene

#: Names and ids of genes, as in ``features/name`` and ``features/id``.
GENES = np.array(
    ["EPCAM", "KRT8", "PTPRC", "CD3E", "COL1A1", "ACTA2", "VIM", "PECAM1", *(f"GEN{i}" for i in range(52))]
)
IDS = np.array([f"ENSG{i + 1:011d}" for i in range(len(GENES))])


def write_matrix(path: Path, counts: np.ndarray, barcodes, names=GENES, ids=IDS, kinds=None) -> None:
    """Write counts ``(barcodes, genes)`` as ``filtered_feature_bc_matrix.h5`` (features × barcodes, CSC)."""
    matrix = csc_matrix(np.asarray(counts).T)
    kinds = ["Gene Expression"] * len(names) if kinds is None else kinds
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, dtype="S")
        group["data"], group["indices"] = matrix.data.astype(np.int32), matrix.indices.astype(np.int64)
        group["indptr"], group["shape"] = matrix.indptr.astype(np.int64), np.array(matrix.shape, np.int32)
        features = group.create_group("features")
        features["id"], features["name"] = np.array(ids, dtype="S"), np.array(names, dtype="S")
        features["feature_type"] = np.array(kinds, dtype="S")
        features["genome"] = np.array(["GRCh38"] * len(names), dtype="S")
        features["_all_tag_keys"] = np.array(["genome"], dtype="S")


def picture(height: int, width: int) -> np.ndarray:
    """H&E-like pixels ``(height, width, 3)``."""
    tile = scene(0, (160, 160))
    return np.tile(tile, (-(-height // 160), -(-width // 160), 1))[:height, :width]


def rates(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Expected counts ``(n, genes)`` at places from 0 to 1: genes rise along x, fall along y, or wave."""
    phase = np.linspace(0, 6, len(GENES))
    return np.exp(np.sin(phase + 5 * x[:, None]) + np.cos(2 * phase + 4 * y[:, None]))
