"""Matrices of a table as float32, however they are held: dense or sparse, in memory, in a file or by dask."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import block_array, csr_matrix, issparse

from spade._checks import shorten


def to_csr(matrix: object, source: str, dtype: type[np.generic] | None = np.float32) -> csr_matrix:
    """Return real numbers as CSR of a type (None: their own), entries sorted and each stored once.

    Arrays of the table are shared where they are of this kind already, and never changed: entries that are stored in
    several parts are added up in a copy, whole numbers as int64.
    """
    with np.errstate(over="ignore"):  # too large a number becomes infinite, which callers refuse
        csr = csr_matrix(_in_memory(matrix, source), dtype=dtype)
    if not csr.has_canonical_format:
        n_parts, kind = csr.nnz, csr.dtype
        csr = csr.astype(np.int64 if kind.kind in "biu" else kind)
        csr.sum_duplicates()
        csr = csr if csr.nnz < n_parts else csr.astype(kind)
    return csr


def to_dense(matrix: object, source: str) -> NDArray[np.float32]:
    """Return real numbers as a dense float32 array."""
    held = _in_memory(matrix, source)
    with np.errstate(over="ignore"):
        return np.asarray(held.toarray() if issparse(held) else held, dtype=np.float32)


def _in_memory(matrix: Any, source: str) -> Any:
    """Return a matrix as an array or a sparse matrix of real numbers in memory; raise if it holds anything else."""
    if isinstance(matrix, da.Array):
        matrix = _computed(matrix)
    elif hasattr(matrix, "to_memory"):  # of a table that is read from its file piece by piece
        matrix = matrix.to_memory()
    elif isinstance(matrix, pd.DataFrame):
        if text := [name for name, kind in matrix.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]:
            raise TypeError(f"{source} has columns that are not numbers: {shorten(text)}. Leave them out.")
        matrix = matrix.to_numpy(np.result_type(np.float32, *map(_plain, matrix.dtypes)), na_value=np.nan)
    if np.ma.is_masked(matrix):
        raise ValueError(f"{source} has {int(np.ma.count_masked(matrix))} masked values. Fill or remove them first.")
    held = matrix if issparse(matrix) else np.asarray(matrix)
    if held.dtype.kind not in "biuf":
        raise TypeError(f"{source} holds values of type {held.dtype}; expected real numbers.")
    return held


def _plain(kind: Any) -> np.dtype[Any]:
    """Return the numpy type of a column, which may be one of pandas that knows missing values."""
    return np.dtype(getattr(kind, "numpy_dtype", kind))


def _computed(matrix: da.Array) -> Any:
    """Return what a dask array holds, whose blocks may be sparse."""
    (blocks,) = dask.compute(matrix.to_delayed().tolist())
    rows = blocks if matrix.ndim == 2 else [blocks]
    if any(issparse(block) for row in rows for block in row):
        return csr_matrix(block_array(rows))
    return np.block(blocks)
