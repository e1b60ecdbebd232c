"""One sample, its table and its sections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from spatialdata import SpatialData
from spatialdata.models import TableModel, get_table_keys

from spade import _keys
from spade._checks import shorten
from spade._samples.shown.carried import carry, written_columns
from spade.core.files import digest
from spade.io._files.matrices import to_csr
from spade.io._recorded.frames import image_arrays
from spade.io._store import replace_elements, stamp

#: Names, rows and values of a table that its digest covers: enough to tell sections apart, quick on large ones.
MOST_NAMES, MOST_ROWS, MOST_VALUES = 1_000, 10_000, 100_000
#: Side of the middle of an image that the digest covers, in pixels.
MIDDLE = 64


@dataclass(frozen=True)
class Section:
    """The spots of one region: one tissue section on one image."""

    name: str
    region: str
    rows: NDArray[np.int64]
    ids: pd.Index


@dataclass
class Opened:
    """One object; ``path`` is set when it was given as a path and must be saved there.

    ``file`` is the feature file that the object was made of, which is never written. ``stamp`` is that of the store,
    and of the elements ``watched``, when it was opened by a function that writes.
    """

    name: str
    sdata: SpatialData
    path: Path | None
    watched: tuple[str, ...] = ()
    stamp: str | None = None
    file: Path | None = field(default=None, kw_only=True)
    #: Files that images are read from which are not in the store.
    pictures: tuple[Path, ...] = field(default=(), kw_only=True)

    def save(self, *elements: str) -> None:
        """Write elements, such as ``"shapes/patches"``, back if the object came from a path.

        A store that was written since it was opened is an error. An object without a name keeps the one that it has
        now, whatever becomes of its content.
        """
        if self.path is None:
            record = self.sdata.attrs.get(_keys.UNS, {})
            if self.sdata.path is None and not record.get("sample"):
                self.sdata.attrs[_keys.UNS] = {**record, "sample": self.name}
            return
        if self.stamp is not None and stamp(self.path.resolve(), self.watched) != self.stamp:
            raise ValueError(
                f"{self.name}: the store at {str(self.path)!r} was written by another program, or removed, while this "
                "function worked on it, so nothing is saved. Run the function again once nothing else writes there."
            )
        replace_elements(self.sdata, self.path, elements)
        if self.stamp is not None:
            self.stamp = stamp(self.path.resolve(), self.watched)


@dataclass
class Sample(Opened):
    """One object and one of its tables."""

    table_key: str = _keys.TABLE
    #: ``obs`` when the sample was opened by a function that writes.
    before: pd.DataFrame | None = None

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
        self._check_regions(regions, region_key)
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

    def _check_regions(self, regions: list[str], region_key: str) -> None:
        """Raise if rows belong to none of the regions that the table annotates."""
        stray = self.table.obs[region_key][~self.table.obs[region_key].isin(regions)]
        if len(stray):
            raise ValueError(
                f"{self.name}: {len(stray)} of {self.table.n_obs} rows of tables[{self.table_key!r}] have values in "
                f"obs[{region_key!r}], such as {shorten(stray.astype(str).unique(), 3)}, that are not its regions, "
                f"{shorten(regions)}. This column names the shapes of a row: keep other values in another column."
            )

    def section_of_row(self) -> NDArray[np.str_]:
        """Name of the section of every row."""
        names = np.full(self.table.n_obs, "", dtype=object)
        for section in self.sections:
            names[section.rows] = section.name
        return names.astype(str)

    def origin(self, section: Section) -> str:
        """Return what identifies a section, whatever its name: its store, file or object, and its region."""
        path = self.path or self.file or self.sdata.path
        return f"{id(self.sdata) if path is None else Path(path).resolve()}\n{section.region}"

    def origin_of_row(self) -> NDArray[np.str_]:
        """Origin of the section of every row."""
        origins = np.full(self.table.n_obs, "", dtype=object)
        for section in self.sections:
            origins[section.rows] = self.origin(section)
        return origins.astype(str)

    def check_current(self, key: str) -> None:
        """Raise if a value, or anything that it was made from, was made from what was written anew since."""
        stale = _keys.outdated(self.table.uns, key)
        if stale is None:
            return
        value, source = stale
        makers = [f"sp.{_keys.read_provenance(self.table.uns, name).get('function', '?')}" for name in stale]
        through = "" if value == key else f"{key!r} was made from {value!r}, and "
        raise ValueError(
            f"{self.name}: {through}{value!r} was made from {source!r}, which {makers[1]} has written anew since, with "
            f"other settings or from other data. Run {makers[0]} again, or keep the old beside the new with key_added=."
        )

    def save(self, *elements: str) -> None:
        """Write the table, and further elements, as :meth:`Opened.save` does; squares carry what is new in ``obs``."""
        super().save(*dict.fromkeys([*elements, *self._carry()]), f"tables/{self.table_key}")

    def _carry(self) -> list[str]:
        """Put the columns of ``obs`` that were written on the squares around the spots; return what changed.

        A table annotates its spots, and no other shapes, so that viewers colour squares by columns of their own. Those
        that squares have already are kept in step.
        """
        if self.before is None:
            return []
        obs, changed = self.table.obs, []
        written = {*written_columns(obs, self.before), _keys.VALID}
        for record in self.table.uns.get(_keys.UNS, {}).values():
            for section in self.sections if "regions" in record else ():
                element = record["regions"].get(section.region, {}).get("element")
                names = [name for name in obs if name in written or name in self.sdata.shapes.get(element, ())]
                columns = obs[names].iloc[section.rows].set_axis(section.ids)
                if carry(self.sdata, element, columns):
                    changed.append(f"shapes/{element}")
        return changed


def content_digest(sdata: SpatialData) -> str:
    """Return a digest of the tables of an object and the spots that they annotate; without tables, of its images."""
    parts: list[NDArray[np.generic] | str] = []
    if not sdata.tables:
        for key, image in sorted(sdata.images.items()):
            array = image_arrays(image)[0].transpose("c", "y", "x")
            y, x = array.sizes["y"] // 2, array.sizes["x"] // 2
            middle = array.data[:, y : y + MIDDLE, x : x + MIDDLE]
            parts += [key, str(array.shape), np.ascontiguousarray(middle)]
    for key, table in sorted(sdata.tables.items()):
        parts += [
            key,
            str(table.shape),
            *map(str, table.obs_names[:MOST_NAMES]),
            *map(str, table.var_names[:MOST_NAMES]),
        ]
        parts.append(_first_counts(table.X))
        for region in table_keys(table, key, key)[0] if TableModel.ATTRS_KEY in table.uns else []:
            if region in sdata.shapes:
                parts.append(shapely.get_coordinates(sdata.shapes[region].geometry.to_numpy()))
    return digest(*parts)


def _first_counts(matrix: Any) -> NDArray[np.float32]:
    """Return the first counts other than zero, which do not depend on how a table holds them; none if it has none."""
    if matrix is None or matrix.dtype.kind not in "biuf":
        return np.zeros(0, np.float32)
    values = to_csr(matrix[:MOST_ROWS], "X").data
    return values[values != 0][:MOST_VALUES]


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
