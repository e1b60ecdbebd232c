"""One sample of a HEST-1k folder, opened when its turn comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from spade._keys import TABLE, UNS
from spade.io._cohort.lazy import LazySample
from spade.io._files.store import read_store
from spade.io._hest import open_hest, open_picture, sample_files
from spade.io._section import IMAGE
from spade.io._store import is_store, write

if TYPE_CHECKING:
    from spatialdata import SpatialData

#: Column that the cohort decides anew at every opening, and entry of ``attrs`` with the size of the expression file.
SPLIT, SOURCE_BYTES = "split", "hest_st_bytes"
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
        sdata = self._described(open_hest(self.folder, self.name))
        del sdata.images[IMAGE]
        sdata.attrs[SOURCE_BYTES] = self._source_bytes()
        write(sdata, self.store)

    def _described(self, sdata: SpatialData) -> SpatialData:
        """Write the columns of the cohort into ``obs``; in a store, those that are there already stay."""
        obs = sdata.tables[TABLE].obs
        stored = SOURCE_BYTES in sdata.attrs
        for name, value in self.columns.items():
            if name == SPLIT or name not in obs or not stored:
                obs[name] = pd.Categorical([value or None] * len(obs), categories=[value] if value else [])
        return sdata

    def _source_bytes(self) -> int:
        return sample_files(self.folder, self.name).expression.stat().st_size

    def _check_source(self, sdata: SpatialData) -> None:
        """Raise if the expression file was replaced since the store was made of it."""
        if (made_of := sdata.attrs.get(SOURCE_BYTES)) != (there := self._source_bytes()):
            raise ValueError(
                f"{self.name}: {str(self.store)!r} was made of another st/{self.name}.h5ad (of {made_of} bytes; now "
                f"{there}). Remove the store, so that it is made anew, or choose another folder with stores=."
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
