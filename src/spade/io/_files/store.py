"""Zarr stores of SpatialData, given as paths."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade.io._bytes import read_json
from spade.io._files.damaged import check_claim, damaged, reading

if TYPE_CHECKING:
    from spatialdata import SpatialData

#: Chunks of the largest array that is read lazily, and values of the largest one in a table, which is read at once,
#: whatever the size of its files: what is not stored is zero.
MAX_CHUNKS, MAX_VALUES = 2**22, 2**28
METADATA = ("zarr.json", ".zarray", ".zmetadata")
WHAT = "a zarr store of SpatialData"


def read_store(path: Path, argument: str = "samples", *, tables_only: bool = False) -> SpatialData:
    """Read a store, images lazily, or its tables alone; errors name it."""
    from spatialdata import read_zarr

    check_metadata(path, argument)
    with reading(path, WHAT, argument), warnings.catch_warnings():
        if tables_only:
            warnings.filterwarnings("ignore", message="The table is annotating")  # its shapes are in the store
        return read_zarr(path, selection=("tables",) if tables_only else None)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the announcement of a future default that zarr repeats for every array."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="zarr v3 autosharding")
        yield


def check_metadata(path: Path, argument: str) -> None:
    """Raise if metadata anywhere in a store cannot be read, or claim more than the store can hold."""
    for place, below, files in os.walk(path):
        folder = Path(place)
        for name in METADATA:
            if name not in files:
                continue
            facts = read_facts(folder / name, argument)
            with reading(folder / name, WHAT, argument):
                _check_claims(facts, folder, path, argument)
            if "shape" in facts:
                below.clear()  # its chunks


def read_facts(file: Path, argument: str) -> dict[str, Any]:
    """Return what a file of zarr's metadata says."""
    facts = read_json(file, argument)
    if not isinstance(facts, dict):
        raise damaged(file, WHAT, "it holds no object of JSON", argument)
    if file.name == "zarr.json" and (kind := facts.get("node_type")) not in ("group", "array"):
        raise damaged(file, WHAT, f"its node_type is {kind!r}", argument)
    return facts


def _check_claims(facts: dict[str, Any], folder: Path, path: Path, argument: str) -> None:
    """Raise if an array, or one that metadata collect, claims to be far larger than its files can make it."""
    collected = facts.get("consolidated_metadata") or (facts if "zarr_consolidated_format" in facts else {})
    for name, below in collected.get("metadata", {}).items():
        _check_claims(below, folder / name.removesuffix("/.zarray"), path, argument)
    if "shape" not in facts:
        return
    grid = facts.get("chunk_grid")
    shape, chunks = facts["shape"], grid["configuration"]["chunk_shape"] if grid else facts["chunks"]
    n_chunks = math.prod(-(-n // chunk) for n, chunk in zip(shape, chunks, strict=True))
    inside = folder.relative_to(path)
    if n_chunks > MAX_CHUNKS:
        raise damaged(path, WHAT, f"{inside.as_posix()!r} claims shape {shape} in {n_chunks:,} chunks", argument)
    if math.prod(shape) > MAX_VALUES and "tables" in inside.parts:
        stored = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        check_claim(path, f"{WHAT}: {inside.as_posix()!r}", math.prod(shape), stored=stored, argument=argument)
