"""The samples of one call, and which rows their tables had: what was computed for rows is written to the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, TypeVar

import anndata as ad
import pandas as pd
import zarr

from spade._samples.sample import Sample
from spade.core.errors import warn
from spade.core.files import digest
from spade.io._cohort.places import Item, may_be_skipped, name_of
from spade.io._files.damaged import DamagedFileError, reading
from spade.io._store import is_store

T = TypeVar("T", bound=Item)


class _Rows(NamedTuple):
    """A table, and a digest of the names of its rows in their order."""

    name: str
    path: Path | None
    table_key: str
    digest: str

    def changed(self) -> ValueError:
        """Return the error of a table whose rows are not these any more."""
        return ValueError(
            f"{self.name}: the rows of tables[{self.table_key!r}] were changed by someone else while this function "
            "worked on them, so nothing is written there. Run the function again once nobody else works on it."
        )


class Listed(list[T]):
    """A list that remembers the rows of every table from its first opening, and refuses others at the next.

    It remembers as well which samples cannot be read and may be skipped.
    """

    def __init__(self, items: list[T]) -> None:
        super().__init__(items)
        self._first: dict[int, _Rows] = {}
        self.left_out: set[int] = set()

    @property
    def readable(self) -> list[T]:
        """The samples without those that were left out so far."""
        return [item for number, item in enumerate(self) if number not in self.left_out]

    def leave_out(self, number: int, error: BaseException | None) -> bool:
        """Leave a sample out that cannot be read, and warn; return False if it may not be, or no other is left."""
        item = self[number]
        last = len(self.left_out) + 1 == len(self)
        if last or not isinstance(error, (DamagedFileError, FileNotFoundError)) or not may_be_skipped(item):
            return False
        self.left_out.add(number)
        warn(f"{name_of(item)}: left out, as it cannot be read. {error}")
        return True

    def check_rows(self, number: int, sample: Sample) -> None:
        """Raise if a sample that was opened before has other rows now."""
        rows = _Rows(sample.name, sample.path, sample.table_key, _digest(sample.table.obs_names))
        if self._first.setdefault(number, rows).digest != rows.digest:
            raise rows.changed()

    def check_stores(self) -> None:
        """Raise if a store that was opened before has other rows now; only the names of the rows are read."""
        for rows in self._first.values():
            names = None if rows.path is None else _stored_names(rows.path, rows.table_key)
            if names is not None and _digest(names) != rows.digest:
                raise rows.changed()


def _digest(names: pd.Index) -> str:
    return digest("\n".join(map(str, names)))


def _stored_names(path: Path, table_key: str) -> pd.Index | None:
    """Return the names of the rows of a table in a store; None if it has no such table, or is not made yet."""
    if not is_store(path):
        return None
    with reading(path, "a zarr store of SpatialData", "samples"):
        store = zarr.open_group(path, mode="r", use_consolidated=False)
        if (name := f"tables/{table_key}/obs") not in store:
            return None
        index = str(store[name].attrs["_index"])
        return pd.Index(ad.io.read_elem(store[f"{name}/{index}"]))
