"""Samples that are opened when their turn comes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spatialdata import SpatialData

#: What happens to a sample whose files are damaged or missing.
ON_DAMAGED = (ERROR, SKIP) = ("error", "skip")


@dataclass(frozen=True, eq=False)
class LazySample:
    """A sample that is opened when its turn comes, and a store beside its files that keeps what is computed of it.

    Attributes
    ----------
    name
        Name of the sample.
    store
        Path of the store, which is made when the first result is written.
    on_damaged
        ``"error"``, or ``"skip"``: a sample that cannot be read is left out with a warning.
    """

    name: str
    store: Path
    on_damaged: str = ERROR

    def open(self, *, tables_only: bool = False) -> SpatialData:
        """Return the sample with its results, images lazily."""
        raise NotImplementedError

    def pictures(self) -> tuple[Path, ...]:
        """Return the files that images are read from, if these are not in the store."""
        return ()

    def make_store(self) -> None:
        """Make the store unless it is there."""
        raise NotImplementedError
