"""Zarr stores of SpatialData, given as paths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spade.io._files.damaged import reading

if TYPE_CHECKING:
    from spatialdata import SpatialData


def read_store(path: Path, argument: str = "samples") -> SpatialData:
    """Read a store, images lazily; errors name it."""
    from spatialdata import read_zarr

    with reading(path, "a zarr store of SpatialData", argument):
        return read_zarr(path)
