"""Files of arrays: digests and atomic writes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

CSR_PARTS = ("indptr", "indices", "data")
CHUNK = 1 << 26


def digest(*arrays: np.ndarray) -> str:
    """First 16 hex digits of the SHA-256 of arrays, read piece by piece."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.shape}{array.dtype}".encode())
        flat = array.reshape(-1)
        for start in range(0, len(flat), CHUNK):
            found.update(np.ascontiguousarray(flat[start : start + CHUNK]).view(np.uint8).data)
    return found.hexdigest()[:16]


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that it is there whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
