"""Folders, patterns and sample sheets, and the stores or feature files that they stand for."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from os.path import expanduser
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
from spatialdata import SpatialData

from spade._checks import plural, shorten
from spade.core.checks import check_path
from spade.io._cohort.lazy import ERROR, SKIP, LazySample
from spade.io._feature_files import SUFFIXES, is_feature_file
from spade.io._files.sheets import SHEETS, WORKBOOKS, SheetRow, read_sheet, sheet_rows
from spade.io._store import is_store

#: Characters of a pattern.
PATTERN = re.compile(r"[*?[]")


@dataclass(frozen=True)
class NamedSample:
    """A sample that the caller described: by a name, as in a dict, and by columns, as in a sample sheet.

    Without a name (``""``) it has the one that it has anyway. ``on_damaged`` is ``"error"``, or ``"skip"``: a sample
    that cannot be read is left out with a warning.
    """

    name: str
    item: SpatialData | Path | LazySample
    columns: Mapping[str, Any] = field(default_factory=dict)
    on_damaged: str = ERROR


#: A sample that may not be opened yet.
Item: TypeAlias = SpatialData | Path | LazySample | NamedSample


def bare(item: Item) -> SpatialData | Path | LazySample:
    """Return a sample without what the caller said of it."""
    return item.item if isinstance(item, NamedSample) else item


def may_be_skipped(item: Item) -> bool:
    """Whether a sample is left out, with a warning, if it cannot be read."""
    return any(isinstance(one, (NamedSample, LazySample)) and one.on_damaged == SKIP for one in (item, bare(item)))


def name_of(item: Item) -> str:
    """Return the name of a sample that was not opened: the one that the caller gave, else that of its place."""
    named = [one.name for one in (item, bare(item)) if isinstance(one, (NamedSample, LazySample)) and one.name]
    return next(iter(named), getattr(place_of(item), "stem", "sample"))


def place_of(item: Item) -> Path | None:
    """Return where a sample is saved; None for an object in memory."""
    sample = bare(item)
    return sample.store if isinstance(sample, LazySample) else sample if isinstance(sample, Path) else None


def is_features(item: Item) -> bool:
    """Whether a sample is a feature file."""
    path = bare(item)
    return isinstance(path, Path) and is_feature_file(path) and not path.is_dir()


def feature_path(item: Item) -> Path:
    """Return the file of a sample that is a feature file."""
    path = bare(item)
    if not isinstance(path, Path):
        raise TypeError(f"samples: got {type(path).__name__}; expected a feature file.")
    return path


def feature_name(item: Item) -> str:
    """Return the name of a feature file: the one given, else its own without suffix."""
    return (item.name if isinstance(item, NamedSample) else "") or feature_path(item).stem


def holds_stores(folder: Path) -> bool:
    """Whether a folder holds zarr stores, and is none."""
    return folder.is_dir() and not _is_store(folder) and any(map(_is_store, _entries(folder)))


def is_place(value: object) -> bool:
    """Whether a text looks like a path or exists as one."""
    if not isinstance(value, str) or looks_like_place(value):
        return isinstance(value, (str, PathLike))
    return "\0" not in value and len(value) < 1024 and Path(expanduser(value)).exists()


def looks_like_place(text: str) -> bool:
    """Whether a text names a folder or is a pattern, or ends like a store, a sheet or a feature file."""
    return Path(text).suffix.lower() in (".zarr", *SHEETS, *SUFFIXES) or any(
        mark in text for mark in ("/", os.sep, "*")
    )


def of_path(value: str | PathLike[str], argument: str) -> list[Item]:
    """Return the samples that a path stands for: itself, or those of a folder, a pattern or a sample sheet."""
    path = check_path(argument, value)
    suffix = path.suffix.lower()
    if path.is_dir():
        return [path] if _is_store(path) else _in_folder(path, argument)
    if suffix in SHEETS:
        return [_described(row) for row in read_sheet(path, argument)]
    if suffix in WORKBOOKS:
        raise ValueError(f"{argument}: {str(path)!r} is a workbook. Save the sheet as CSV (UTF-8) and pass that file.")
    if PATTERN.search(str(path)) and not path.exists():
        return _matching(path, argument)
    return [path]


def of_frame(frame: pd.DataFrame, argument: str) -> list[Item]:
    """Return the samples of a sample sheet that was read already; its paths are relative to the working directory."""
    return [_described(row) for row in sheet_rows(frame, Path(), f"{argument}: the table")]


def _described(row: SheetRow) -> NamedSample:
    return NamedSample(row.name, row.path, row.columns)


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted by name; hidden entries, as of unfinished writing, are left out."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _is_store(path: Path) -> bool:
    """Whether a path is a store, or is named like one, so that one that is damaged is not passed over."""
    return path.is_dir() and (path.suffix == ".zarr" or is_store(path))


def _in_folder(folder: Path, argument: str) -> list[Item]:
    entries = _entries(folder)
    found = [entry for entry in entries if _is_store(entry) or is_features(entry)]
    if not found:
        below = [entry.name for entry in entries if entry.is_dir()]
        raise ValueError(
            f"{argument}: the folder {str(folder)!r} is not a zarr store and holds neither stores nor feature files; "
            f"folders in it: {shorten(below) or 'none'}. Name one of these, or use a pattern such as "
            f"{str(folder / '*' / '*.zarr')!r}."
        )
    return _of_one_kind(found, f"the folder {str(folder)!r}", argument)


def _matching(pattern: Path, argument: str) -> list[Item]:
    hits = [Path(hit) for hit in sorted(glob.glob(str(pattern), recursive=True))]
    if not hits:
        raise FileNotFoundError(
            f"{argument}: nothing matches {str(pattern)!r}. A pattern names stores or feature files, such as "
            "'cohort/*.zarr'; it is relative to the working directory."
        )
    if others := [hit.name for hit in hits if not (_is_store(hit) or is_features(hit))]:
        raise ValueError(
            f"{argument}: {plural(len(others), 'match')} of {str(pattern)!r} are neither stores nor feature files: "
            f"{shorten(others, 3)}. Narrow the pattern, such as '*.zarr'."
        )
    return _of_one_kind(hits, repr(str(pattern)), argument)


def _of_one_kind(paths: list[Path], source: str, argument: str) -> list[Item]:
    n_files = sum(map(is_features, paths))
    if 0 < n_files < len(paths):
        raise ValueError(
            f"{argument}: {source} stands for {plural(n_files, 'feature file')} and "
            f"{plural(len(paths) - n_files, 'store')}. Name one kind, as with '*.h5' or '*.zarr'."
        )
    return list(paths)
