"""A task of HEST-Bench: a folder with splits, genes, patches and expression, as it is published."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade._checks import shorten
from spade.encoders import Encoder
from spade.encoders._output import encode_batch
from spade.io._bytes import read_json
from spade.io._files.damaged import reading
from spade.io._files.hdf5 import open_hdf5, read_h5ad
from spade.io._files.hest_patches import SIDE_UM, check_places, read_hest_patches
from spade.io._files.matrices import to_csr
from spade.io._files.tables import table_text

GENES = "var_50genes.json"
COLUMNS = ("sample_id", "patches_path", "expr_path")
DOWNLOAD_AGAIN = "Compare its size with the source and download it again."


@dataclass(frozen=True)
class BenchTask:
    """Genes, files (patches, expression) of every sample, and training and test samples of every fold."""

    folder: Path
    genes: list[str]
    files: dict[str, tuple[Path, Path]]
    folds: dict[str, tuple[list[str], list[str]]]


@dataclass(frozen=True)
class TaskSample:
    """Spots of one sample that have a patch.

    Attributes
    ----------
    x
        Features ``(n, d)``.
    counts
        Raw counts ``(n, G)`` of the same spots in the same order.
    genes
        Names of the columns of ``counts``.
    points
        Centres (x, y) in pixels, ``(n, 2)``; None if the file has none.
    """

    x: NDArray[np.float32]
    counts: csr_matrix
    genes: pd.Index
    points: NDArray[np.float64] | None


@dataclass(frozen=True)
class _Patches:
    """Features ``(n, d)``, barcodes and, if the file has them, centres ``(n, 2)`` of the patches in a file."""

    x: NDArray[np.float32]
    barcodes: pd.Index
    points: NDArray[np.float64] | None


def read_task(folder: Path) -> BenchTask:
    """Read splits and genes; paths in the splits must lie within the folder."""
    splits = folder / "splits"
    names = (re.fullmatch(r"train_(\d+)", file.stem) for file in splits.glob("train_*.csv"))
    numbers = sorted(int(match[1]) for match in names if match)
    if not numbers:
        raise FileNotFoundError(
            f"samples={str(folder)!r} is neither a .zarr store nor a task of HEST-Bench, which has splits/train_0.csv, "
            f"splits/test_0.csv, {GENES}, patches/ and adata/."
        )
    files: dict[str, tuple[Path, Path]] = {}
    folds = {}
    for number in numbers:
        train, test = (_read_part(folder, splits / f"{part}_{number}.csv", files) for part in ("train", "test"))
        if shared := sorted(set(train) & set(test)):
            raise ValueError(f"{str(splits)!r}: fold {number} has {shorten(shared)} in training and test.")
        folds[str(number)] = (train, test)
    return BenchTask(folder, _read_genes(folder / GENES), files, folds)


def _read_part(folder: Path, file: Path, files: dict[str, tuple[Path, Path]]) -> list[str]:
    """Return the samples of one part of a fold, and add their files to ``files``."""
    frame = _read_split(file)
    for name, patches, expression in frame[list(COLUMNS)].itertuples(index=False):
        pair = (_within(folder, patches), _within(folder, expression))
        if files.setdefault(name, pair) != pair:
            raise ValueError(f"{str(file.parent)!r}: sample {name!r} has different files in different splits.")
    return frame["sample_id"].tolist()


def _read_split(file: Path) -> pd.DataFrame:
    if not file.is_file():
        raise FileNotFoundError(f"{str(file)!r} is missing. Every train_k.csv needs its test_k.csv.")
    text, separator = table_text(file, "samples")
    with reading(file, "CSV", "samples"):
        frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str)
    missing = [name for name in COLUMNS if name not in frame]
    if missing or frame[list(COLUMNS)].isna().any(axis=None) or frame.empty:
        what = f"lacks the columns {missing}" if missing else "has missing values" if len(frame) else "lists no sample"
        raise ValueError(f"{str(file)!r} {what}; expected {', '.join(COLUMNS)} for every sample. {DOWNLOAD_AGAIN}")
    return frame


def _within(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{str(folder)!r}: a split names {name!r}, which lies outside of the folder.")
    return path


def _read_genes(file: Path) -> list[str]:
    if not file.is_file():
        raise FileNotFoundError(f'{str(file)!r} is missing; it holds {{"genes": [...]}}.')
    content: Any = read_json(file, "samples")
    genes = content.get("genes") if isinstance(content, dict) else None
    if not isinstance(genes, list) or not genes or not all(isinstance(gene, str) for gene in genes):
        raise ValueError(f'{str(file)!r}: expected {{"genes": ["...", ...]}} with at least one name.')
    if len(set(genes)) < len(genes):
        raise ValueError(f"{str(file)!r} names genes more than once.")
    return genes


def read_task_sample(task: BenchTask, name: str, encoder: Encoder, batch_size: int) -> TaskSample:
    """Encode the patches of a sample and join its counts to them by barcode."""
    patches_file, expression_file = task.files[name]
    for file in (patches_file, expression_file):
        if not file.is_file():
            raise FileNotFoundError(f"{name}: {str(file)!r}, which the splits name, is missing.")
    adata = read_h5ad(expression_file, name)
    patches = _read_patches(name, patches_file, encoder, batch_size)
    for what, names in (
        ("barcodes of adata", adata.obs_names),
        ("genes", adata.var_names),
    ):
        if not names.is_unique:
            raise ValueError(f"{name}: {what} occur more than once, such as {shorten(names[names.duplicated()])}.")
    rows = adata.obs_names.get_indexer(patches.barcodes)
    if (rows < 0).any():
        unmatched = patches.barcodes[rows < 0]
        raise ValueError(
            f"{name}: {len(unmatched)} of {len(rows)} patches have no spot in {str(expression_file)!r}, such as "
            f"{shorten(unmatched)}. Do both files belong to one sample?"
        )
    with reading(expression_file, "h5ad: X and obsm['spatial']", name):
        counts = to_csr(adata.X, f"{str(expression_file)!r}: X")[rows]
        places = np.asarray(adata.obsm["spatial"], dtype=np.float64)[rows] if "spatial" in adata.obsm else None
        if places is not None and (places.ndim != 2 or places.shape[1] != 2):
            raise ValueError(f"obsm['spatial'] has shape {places.shape}")
    if places is not None and patches.points is not None:
        check_places(places, patches.points, name)
    if len(counts.data) and (not np.isfinite(counts.data).all() or counts.data.min() < 0):
        raise ValueError(
            f"{name}: {str(expression_file)!r} has negative, NaN or infinite values; raw counts are expected."
        )
    return TaskSample(patches.x, counts, adata.var_names, patches.points)


def _read_patches(name: str, path: Path, encoder: Encoder, batch_size: int) -> _Patches:
    """Check and encode the patches in a file."""
    found = read_hest_patches(path, name)
    if encoder.input_px and encoder.input_px != found.side:
        raise ValueError(
            f"{name}: {str(path)!r}: patches are {found.side} px wide, but encoder {encoder.name!r} reads "
            f"{encoder.input_px} px."
        )
    x = np.empty((len(found.barcodes), encoder.dim), dtype=np.float32)
    for start, patches in _batches(name, path, found.images, batch_size):
        x[start : start + batch_size] = encode_batch(encoder, patches, SIDE_UM / found.side)
    return _Patches(x, found.barcodes, found.corners)


def _batches(name: str, path: Path, key: str, batch_size: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Read the patches of a file; what is done with them is not blamed on it."""
    with open_hdf5(path, name) as file:
        img = file[key]
        for start in range(0, len(img), batch_size):
            yield start, img[start : start + batch_size]
