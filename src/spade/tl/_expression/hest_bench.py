"""A task of HEST-Bench: a folder with splits, genes, patches and expression, as it is published."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade._checks import shorten
from spade.core.spots.blocks import spacing
from spade.encoders import Encoder

GENES = "var_50genes.json"
COLUMNS = ("sample_id", "patches_path", "expr_path")
#: Side of a patch in µm.
SIDE_UM = 112.0
DOWNLOAD_AGAIN = "Compare its size with the source and download it again."


@dataclass(frozen=True)
class BenchTask:
    """What the folder says: genes, the files of every sample, and training and test samples of every fold."""

    folder: Path
    genes: list[str]
    files: dict[str, tuple[Path, Path]]
    folds: dict[str, tuple[list[str], list[str]]]


@dataclass(frozen=True)
class TaskSample:
    """One sample: features ``(n, d)``, counts ``(n, G)`` of the same spots in the same order, gene names, and pixels (x, y) or None."""

    x: NDArray[np.float32]
    counts: csr_matrix
    genes: pd.Index
    points: NDArray[np.float64] | None


def read_task(folder: Path) -> BenchTask:
    """Read splits and genes; paths in the splits are within the folder."""
    splits = folder / "splits"
    found = sorted(int(m[1]) for f in splits.glob("train_*.csv") if (m := re.fullmatch(r"train_(\d+)", f.stem)))
    if not found:
        raise FileNotFoundError(
            f"samples={str(folder)!r} is neither a .zarr store nor a task of HEST-Bench, which has splits/train_0.csv, splits/test_0.csv, "
            f"{GENES}, patches/ and adata/."
        )
    files: dict[str, tuple[Path, Path]] = {}
    folds = {}
    for number in found:
        parts = []
        for part in ("train", "test"):
            frame = _read_split(splits / f"{part}_{number}.csv")
            for name, patches, expression in frame[list(COLUMNS)].itertuples(index=False):
                pair = (_within(folder, patches), _within(folder, expression))
                if files.setdefault(name, pair) != pair:
                    raise ValueError(f"{str(splits)!r}: sample {name!r} has different files in different splits.")
            parts.append(frame["sample_id"].tolist())
        if both := sorted(set(parts[0]) & set(parts[1])):
            raise ValueError(f"{str(splits)!r}: fold {number} has {shorten(both)} in training and test.")
        folds[str(number)] = (parts[0], parts[1])
    return BenchTask(folder, _read_genes(folder / GENES), files, folds)


def _read_split(file: Path) -> pd.DataFrame:
    if not file.is_file():
        raise FileNotFoundError(f"{str(file)!r} is missing. Every train_k.csv needs its test_k.csv.")
    try:
        frame = pd.read_csv(file, dtype=str)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(file)!r} cannot be read as CSV ({error}). {DOWNLOAD_AGAIN}") from error
    missing = [name for name in COLUMNS if name not in frame]
    if missing or frame[list(COLUMNS)].isna().any(axis=None) or frame.empty:
        what = f"lacks the columns {missing}" if missing else "has missing values" if len(frame) else "lists no sample"
        raise ValueError(f"{str(file)!r} {what}; expected {', '.join(COLUMNS)} for every sample. {DOWNLOAD_AGAIN}")
    return frame


def _within(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{str(folder)!r}: a split names {name!r}, which is outside of the folder.")
    return path


def _read_genes(file: Path) -> list[str]:
    if not file.is_file():
        raise FileNotFoundError(f'{str(file)!r} is missing; it holds {{"genes": [...]}}.')
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is damaged: {error}. {DOWNLOAD_AGAIN}") from error
    genes = content.get("genes") if isinstance(content, dict) else None
    if not isinstance(genes, list) or not genes or not all(isinstance(gene, str) for gene in genes):
        raise ValueError(f'{str(file)!r}: expected {{"genes": ["...", ...]}} with at least one name.')
    if len(set(genes)) < len(genes):
        raise ValueError(f"{str(file)!r} names genes more than once.")
    return genes


def read_task_sample(task: BenchTask, name: str, encoder: Encoder, batch_size: int) -> TaskSample:
    """Encode the patches of a sample and join its counts to them by barcode."""
    patches, expression = task.files[name]
    for file in (patches, expression):
        if not file.is_file():
            raise FileNotFoundError(f"{name}: {str(file)!r}, which the splits name, is missing.")
    try:
        adata = ad.read_h5ad(expression)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{name}: {str(expression)!r} cannot be read as h5ad ({error}). {DOWNLOAD_AGAIN}") from error
    try:
        with h5py.File(patches) as file:
            x, barcodes, coords = _encode(file, name, str(patches), encoder, batch_size)
    except OSError as error:
        raise ValueError(f"{name}: {str(patches)!r} cannot be read as HDF5 ({error}). {DOWNLOAD_AGAIN}") from error
    for what, names in (("barcodes of patches", pd.Index(barcodes)), ("barcodes of adata", adata.obs_names),
                        ("genes", adata.var_names)):  # fmt: skip
        if not names.is_unique:
            raise ValueError(f"{name}: {what} occur more than once, such as {shorten(names[names.duplicated()])}.")
    rows = adata.obs_names.get_indexer(barcodes)
    if (rows < 0).any():
        lost = pd.Index(barcodes)[rows < 0]
        raise ValueError(
            f"{name}: {len(lost)} of {len(rows)} patches have no spot in {str(expression)!r}, such as {shorten(lost)}. Are both files of "
            "one sample?"
        )
    if "spatial" in adata.obsm and coords is not None:
        _check_places(np.asarray(adata.obsm["spatial"], dtype=np.float64)[rows], coords, name)
    counts = csr_matrix(adata.X)[rows]
    if len(counts.data) and (not np.isfinite(counts.data).all() or counts.data.min() < 0):
        raise ValueError(f"{name}: {str(expression)!r} has negative, NaN or infinite values; raw counts are expected.")
    return TaskSample(x, counts, adata.var_names, coords)


def _encode(
    file: h5py.File, name: str, path: str, encoder: Encoder, batch_size: int
) -> tuple[NDArray[np.float32], list[str], NDArray[np.float64] | None]:
    """Features, barcodes and places of the patches in a file."""
    keys = {key: next((k for k in names if k in file), None) for key, names in _DATASETS.items()}
    if keys["img"] is None or keys["barcode"] is None:
        raise ValueError(f"{name}: {path!r} has {shorten(file) or 'nothing'}; expected img, barcode and coords.")
    img = file[keys["img"]]
    barcodes = [b.decode() if isinstance(b, bytes) else str(b) for b in np.asarray(file[keys["barcode"]][:]).ravel()]
    coords = None if keys["coords"] is None else np.asarray(file[keys["coords"]][:], dtype=np.float64)
    if img.ndim != 4 or img.shape[-1] != 3 or img.shape[1] != img.shape[2] or img.dtype != np.uint8 or not len(img):
        raise ValueError(f"{name}: img of {path!r} is {img.dtype} {img.shape}; expected uint8 (n, side, side, 3).")
    if len(barcodes) != len(img) or (coords is not None and coords.shape != (len(img), 2)):
        raise ValueError(
            f"{name}: {path!r} has {len(img)} patches, but {len(barcodes)} barcodes and coords of shape "
            f"{None if coords is None else coords.shape}. {DOWNLOAD_AGAIN}"
        )
    side = img.shape[1]
    if encoder.input_px and encoder.input_px != side:
        raise ValueError(f"{name}: patches are {side} px wide, but encoder {encoder.name!r} reads {encoder.input_px}.")
    x = np.empty((len(img), encoder.dim), dtype=np.float32)
    for start in range(0, len(img), batch_size):
        x[start : start + batch_size] = encoder.encode(img[start : start + batch_size], SIDE_UM / side)
    return x, barcodes, coords


_DATASETS = {"img": ("img", "imgs"), "barcode": ("barcode", "barcodes"), "coords": ("coords",)}


def _check_places(spots: NDArray[np.float64], coords: NDArray[np.float64], name: str) -> None:
    """Raise if patches and spots that are joined do not lie at the same places, a common shift aside."""
    if len(spots) < 3:
        return
    pitch = spacing(spots)
    shift = spots - coords
    off = np.abs(shift - np.median(shift, axis=0)).max(1) > max(pitch / 2, 1)
    if off.any():
        raise ValueError(
            f"{name}: {int(off.sum())} of {len(off)} patches lie elsewhere than the spot of the same barcode (coords of the patches against "
            "obsm['spatial']), more than half the distance between spots off. Are both files of one sample?"
        )
