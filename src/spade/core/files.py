"""Digests of arrays, and atomic writes of files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

#: Arrays of a CSR matrix, in the order in which they are saved.
CSR_PARTS = ("indptr", "indices", "data")
#: Values that are hashed at a time.
CHUNK = 1 << 26


def digest(*arrays: np.ndarray) -> str:
    """Return the first 16 hex digits of the SHA-256 of arrays, which are read piece by piece."""
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(f"{array.shape}{array.dtype}".encode())
        values = array.reshape(-1)
        for start in range(0, len(values), CHUNK):
            sha256.update(np.ascontiguousarray(values[start : start + CHUNK]).view(np.uint8).data)
    return sha256.hexdigest()[:16]


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file completely or not at all; ``write`` gets the path of a temporary file beside it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
