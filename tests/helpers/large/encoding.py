"""Stores whose patches are encoded, and encoders that count, stop and wait."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from functools import cache
from pathlib import Path

import numpy as np

import spade as sp
from helpers.sections import tiny


class Colours:
    """An encoder: mean and deviation of the colours; ``then`` is called with the number of each batch."""

    name, id, dim, input_px, mpp = "colours", "colours-1", 6, None, None

    def __init__(self, then=lambda batch: None, **facts):
        self.then, self.batches, self.patches, self.lock = then, 0, 0, threading.Lock()
        for fact, value in facts.items():
            setattr(self, fact, value)

    def encode(self, patches, mpp):
        with self.lock:
            self.batches += 1
            number = self.batches
        self.then(number)
        self.patches += len(patches)
        flat = patches.reshape(len(patches), -1, 3).astype(np.float64)
        return np.concatenate([flat.mean(1), flat.std(1)], axis=1)[:, : self.dim]


def placed(n=36, **options):
    """A section with patches."""
    sdata = tiny(n, **options)
    sp.pp.patches(sdata, size_um=32, size_px=32)
    return sdata


@cache
def _written(n, **options) -> Path:
    """A store that is written once and copied often."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder, "sample.zarr")
    sp.io.write(placed(n, **options), path)
    return path


def stored(path: Path, n=36, **options) -> Path:
    """The same in a store."""
    return Path(shutil.copytree(_written(n, **options), path))


def files(path: Path, key="X_colours") -> dict[str, bytes]:
    """The bytes of all files of features in a store."""
    folder = path / "tables" / "table" / "obsm" / key
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def hidden(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("."))


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("patches-", "encoder"))]
