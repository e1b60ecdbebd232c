"""One sample of a HEST-1k folder, opened when its turn comes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from spade._keys import TABLE, UNS, read_provenance, write_provenance
from spade.io._cohort.lazy import LazySample
from spade.io._files.store import read_store
from spade.io._hest import open_hest, open_picture, sample_files
from spade.io._section import IMAGE
from spade.io._store import is_store, write

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: Column that the cohort decides anew at every opening, and the record of what it wrote into ``obs``.
SPLIT, RECORD = "split", "hest_cohort"
#: Entries of ``attrs`` with the size of the expression file, and with its time of change and digest.
SOURCE_BYTES, SOURCE = "hest_st_bytes", "hest_st"
#: Largest relative difference of two scales that are one.
SAME_SCALE = 1e-6


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class HestSample(LazySample):
    """A sample of a HEST-1k folder.

    The slide stays where it is: the store holds the table, spots, outlines and what is computed, without the image.

    Attributes
    ----------
    folder
        Folder of the dataset.
    columns
        ``obs`` columns of all spots; ``""`` is missing.
    """

    folder: Path
    columns: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"HestSample {self.name}: {', '.join(filter(None, self.columns.values()))}"

    def open(self, *, tables_only: bool = False) -> SpatialData:
        """Return the sample, with what its store holds if there is one; the slide lazily."""
        if not is_store(self.store):
            return self._described(open_hest(self.folder, self.name, outlines=not tables_only))
        sdata = read_store(self.store, self.name, tables_only=tables_only)
        self._check_source(sdata)
        if not tables_only:
            table = sdata.tables[TABLE]
            picture, mpp = open_picture(self.folder, self.name, table.obs_names, table.obsm["spatial"])
            self._check_scale(sdata, mpp)
            sdata.images[IMAGE] = picture
        return self._described(sdata)

    def pictures(self) -> tuple[Path, ...]:
        """Return the slide, or the file of patches that stands in for it."""
        files = sample_files(self.folder, self.name)
        return tuple(file for file in (files.slide, files.patches) if file is not None)

    def make_store(self) -> None:
        """Make the store unless it is there: all but the image."""
        if is_store(self.store):
            return
        file = sample_files(self.folder, self.name).expression
        status, content = file.stat(), _digest(file)
        sdata = self._described(open_hest(self.folder, self.name))
        del sdata.images[IMAGE]
        sdata.attrs[SOURCE_BYTES] = status.st_size
        sdata.attrs[SOURCE] = {"modified": status.st_mtime_ns, "digest": content}
        write(sdata, self.store)

    def _described(self, sdata: SpatialData) -> SpatialData:
        """Write the columns of the cohort into ``obs``; in a store, what others wrote there stays."""
        table = sdata.tables[TABLE]
        stored = SOURCE_BYTES in sdata.attrs
        record: dict[str, Any] = {**read_provenance(table.uns, RECORD)}
        written: dict[str, str] = record.get("columns", {})
        for name, value in self.columns.items():
            if name == SPLIT or not stored or name not in table.obs or self._is_own(table, name, written):
                table.obs[name] = pd.Categorical([value or None] * table.n_obs, categories=[value] if value else [])
                written = {**written, name: value}
        write_provenance(table.uns, RECORD, function="io.hest_cohort", columns=written)
        return sdata

    def _is_own(self, table: AnnData, name: str, written: Mapping[str, str]) -> bool:
        """Whether a column of ``obs`` holds what the cohort wrote, and no other function wrote it since."""
        values = {"" if pd.isna(value) else str(value) for value in table.obs[name].unique()}
        return name in written and values <= {written[name]} and not read_provenance(table.uns, name)

    def _check_source(self, sdata: SpatialData) -> None:
        """Raise if the expression file was replaced since the store was made of it; a copy of it is the same file."""
        file = sample_files(self.folder, self.name).expression
        made_of, there = sdata.attrs.get(SOURCE_BYTES), file.stat().st_size
        if made_of == there:
            source = sdata.attrs.get(SOURCE, {})  # stores of early versions know the size alone
            if not source or source["modified"] == file.stat().st_mtime_ns or source["digest"] == _digest(file):
                return
        sizes = "" if made_of == there else f" (of {made_of} bytes; now {there})"
        raise ValueError(
            f"{self.name}: {str(self.store)!r} was made of another st/{self.name}.h5ad{sizes}. Remove the store, so "
            "that it is made anew, or choose another folder with stores=."
        )

    def _check_scale(self, sdata: SpatialData, mpp: float) -> None:
        """Raise if the picture has another scale than when the store was made."""
        made_at = sdata.attrs.get(UNS, {}).get("mpp", {}).get(IMAGE, mpp)
        if abs(made_at / mpp - 1) > SAME_SCALE:
            raise ValueError(
                f"{self.name}: {str(self.store)!r} was made of a picture at {made_at:.4g} µm/px, which by "
                f"metadata/{self.name}.json and the files there has {mpp:.4g} now. Remove the store, so that it is "
                "made anew, or choose another folder with stores=."
            )


def _digest(file: Path) -> str:
    """Return the digest of a file; as long as it stays the same, it is read once."""
    status = file.stat()
    return _digest_once(file, status.st_size, status.st_mtime_ns)


@cache
def _digest_once(file: Path, size: int, modified: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
