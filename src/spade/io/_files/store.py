"""Zarr stores of SpatialData, given as paths."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from spade.io._files.damaged import reading

if TYPE_CHECKING:
    from spatialdata import SpatialData


def read_store(path: Path, argument: str = "samples", *, tables_only: bool = False) -> SpatialData:
    """Read a store, images lazily, or its tables alone; errors name it."""
    from spatialdata import read_zarr

    with reading(path, "a zarr store of SpatialData", argument), warnings.catch_warnings():
        if tables_only:
            warnings.filterwarnings("ignore", message="The table is annotating")  # its shapes are in the store
        return read_zarr(path, selection=("tables",) if tables_only else None)
