"""One sample, its table and its sections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from spatialdata import SpatialData
from spatialdata.models import TableModel, get_table_keys

from spade._checks import shorten
from spade.io._store import replace_elements


@dataclass(frozen=True)
class Section:
    """The spots of one region: one tissue section on one image."""

    name: str
    region: str
    rows: NDArray[np.int64]
    ids: pd.Index


@dataclass
class Sample:
    """One object with its table; ``path`` is set when it was given as a path and must be saved there."""

    name: str
    sdata: SpatialData
    path: Path | None
    table_key: str

    @property
    def table(self) -> ad.AnnData:
        """The table that is read and written."""
        return self.sdata.tables[self.table_key]

    @property
    def has_expression(self) -> bool:
        """Whether the table has any genes."""
        return bool(self.table.n_vars)

    @cached_property
    def sections(self) -> list[Section]:
        """One section per region that has rows in the table; duplicated instance ids raise."""
        regions, region_key, instance_key = table_keys(self.table, self.name, self.table_key)
        sections = []
        for region in regions:
            rows = np.flatnonzero((self.table.obs[region_key] == region).to_numpy())
            if not len(rows):  # all its spots were filtered out
                continue
            ids = pd.Index(self.table.obs[instance_key].to_numpy()[rows])
            if not ids.is_unique:
                repeated = ids[ids.duplicated()].unique()
                raise ValueError(
                    f"{self.name}: tables[{self.table_key!r}].obs[{instance_key!r}] has {len(repeated)} instance ids "
                    f"more than once in region {region!r}, such as {shorten(repeated)}. Rows are joined to spots by "
                    "these ids; make them unique."
                )
            name = self.name if len(regions) == 1 else f"{self.name}/{region}"
            sections.append(Section(name, region, rows, ids))
        return sections

    def section_of_row(self) -> NDArray[np.str_]:
        """Name of the section of every row."""
        names = np.full(self.table.n_obs, "", dtype=object)
        for section in self.sections:
            names[section.rows] = section.name
        return names.astype(str)

    def origin(self, section: Section) -> str:
        """Return what identifies a section, whatever its name: its store or object, and its region."""
        path = self.path or self.sdata.path
        return f"{id(self.sdata) if path is None else Path(path).resolve()}\n{section.region}"

    def origin_of_row(self) -> NDArray[np.str_]:
        """Origin of the section of every row."""
        origins = np.full(self.table.n_obs, "", dtype=object)
        for section in self.sections:
            origins[section.rows] = self.origin(section)
        return origins.astype(str)

    def save(self, *elements: str) -> None:
        """Write the table (and further elements, such as ``"shapes/patches"``) back if the sample came from a path."""
        if self.path is not None:
            replace_elements(self.sdata, self.path, [*elements, f"tables/{self.table_key}"])


def table_keys(table: ad.AnnData, sample: str, table_key: str) -> tuple[list[str], str, str]:
    """Return the regions of a table, its region column and its instance column."""
    if TableModel.ATTRS_KEY not in table.uns:
        raise ValueError(
            f"{sample}: tables[{table_key!r}] annotates no shapes (it has no uns[{TableModel.ATTRS_KEY!r}]). Parse it "
            "with spatialdata.models.TableModel.parse(table, region=..., region_key=..., instance_key=...)."
        )
    regions, region_key, instance_key = get_table_keys(table)
    return [regions] if isinstance(regions, str) else list(regions), region_key, instance_key


def check_names(names: Iterable[str], what: str = "samples") -> None:
    """Raise if two samples (or sections) have the same name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"samples: two {what} are named {shorten(twice)}; give each its own name (sample_id= of a reader here, or "
            "sdata.attrs['spade'] = {'sample': 'name'} of any object)."
        )
