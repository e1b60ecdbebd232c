"""Rows that a model is given: checked, and dense some at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix, issparse

from spade.core.arrays import Floats
from spade.core.evaluation.scaling import within_sections

Matrix: TypeAlias = Floats | csr_matrix


def check_rows(values: ArrayLike | csr_matrix, width: int, name: str, model: object) -> Matrix:
    """Return a matrix, dense or CSR, or raise if it is not as wide as what the model was trained on."""
    checked = cast("Matrix", csr_matrix(values) if issparse(values) else np.asarray(values))
    if checked.ndim != 2 or checked.shape[1] != width:
        raise ValueError(f"{name} has shape {checked.shape}; this model was trained on width {width}. {model!r}")
    return checked


def blocks(x: Matrix | NDArray[np.uint8], size: int) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yield ``size`` rows at a time and their places: matrices as dense float32, images ``(n, px, px, 3)`` in uint8."""
    kind = np.float32 if x.ndim == 2 else np.uint8
    for start in range(0, x.shape[0], size):
        rows = slice(start, min(start + size, x.shape[0]))
        part: Any = x[rows]
        yield rows, np.ascontiguousarray(part.toarray() if issparse(part) else part, dtype=kind)


def check_output(out: NDArray[np.floating], model: object, *inputs: NDArray[Any]) -> NDArray[np.floating]:
    """Return what a model made of rows, or raise if a row is not finite although its inputs are.

    NaN says that a row has no input, never that a model failed.
    """
    bad = ~np.isfinite(out).all(1)
    for values in inputs:
        if bad.any() and values.dtype.kind == "f":
            bad &= np.isfinite(values).all(1)
    if bad.any():
        raise ValueError(
            f"the output of {int(bad.sum())} of {len(out)} rows is NaN or infinite, although their input is not. Are "
            f"the features or the expression far larger than in training? {model!r}"
        )
    return out


def scale_by_section(x: Floats, section: NDArray[Any]) -> NDArray[np.float64]:
    """Return features with mean 0 and deviation 1 in every section; rows with NaN are left out, and stay NaN.

    A constant column becomes 0.
    """
    out = np.full(x.shape, np.nan)
    valid = ~np.isnan(x).any(1)
    out[valid] = within_sections(x[valid].astype(np.float64), section[valid], block=False, by_column=True)
    return out
