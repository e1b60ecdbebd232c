"""Sample sheets: one row per sample, with its path, its name and facts about it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spade._checks import clean_label, plural, shorten
from spade._keys import check_key, storable
from spade.core.checks import check_path
from spade.io._label_table import read_columns

SHEETS, WORKBOOKS = (".csv", ".tsv"), (".xlsx", ".xls", ".ods")
PATH, NAMES = "path", ("name", "sample")
#: What other programs and people call the column ``path``, in lower case and without ``_``.
ALIKE = (
    "path", "paths", "file", "files", "filename", "filepath", "store", "zarr", "zarrpath", "h5", "h5path", "location",
    "slidepath", "samplepath", "wsi", "uri", "url", "folder", "dir", "directory", "data", "features",
)  # fmt: skip


@dataclass(frozen=True)
class SheetRow:
    """A sample of a sheet: where it is, its name (``""``: none) and the values of all other columns.

    A missing text is ``""``, a missing number NaN.
    """

    path: Path
    name: str
    columns: dict[str, Any]


def read_sheet(path: Path, argument: str) -> list[SheetRow]:
    """Read a sheet with commas, semicolons or tabs; its paths are relative to its folder."""
    frame = pd.DataFrame(read_columns(path, argument, names=(PATH, *NAMES)))
    return sheet_rows(frame, path.parent, f"{argument}={str(path)!r}")


def sheet_rows(frame: pd.DataFrame, folder: Path, source: str) -> list[SheetRow]:
    """Return the rows of a sheet; raise unless every row names a path that is there, each only once."""
    frame = frame.reset_index(drop=True).rename(columns=str)
    _check_columns(list(frame.columns), source)
    if not len(frame):
        raise ValueError(f"{source} has no rows; expected one per sample.")
    named = next((column for column in NAMES if column in frame), None)
    paths = [_path(value, folder, source, row) for row, value in enumerate(frame[PATH], 1)]
    names = [""] * len(frame) if named is None else _texts(frame[named])
    if named is not None:
        _check_filled(names, named, source)
        _check_once(names, f"{named}s", source)
    _check_once([str(path.resolve()) for path in paths], "paths", source)
    if missing := [str(path) for path in paths if not path.exists()]:
        raise FileNotFoundError(
            f"{source}: {plural(len(missing), 'path')} of {len(paths)} are not there: {shorten(missing, 3)}. Paths are "
            f"relative to {str(folder.absolute())!r}."
        )
    further = {column: _values(frame[column]) for column in frame if column not in (PATH, named)}
    return [
        SheetRow(path, name, {column: values[i] for column, values in further.items()})
        for i, (path, name) in enumerate(zip(paths, names, strict=True))
    ]


def _check_columns(columns: Sequence[str], source: str) -> None:
    """Raise unless there is a column of paths, and all others can be stored."""
    if PATH not in columns:
        alike = [name for name in columns if re.sub(r"[\s_.-]", "", name.lower()) in ALIKE]
        advice = f"Rename {alike[0]!r} to 'path'." if alike else "Add it: the path of every store or feature file."
        raise ValueError(
            f"{source} is no sample sheet: it has no column 'path'; columns: {shorten(columns, 10)}. {advice}"
        )
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise ValueError(f"{source} has columns of the same name, {shorten(twice)}. Rename them.")
    if set(NAMES) <= set(columns):
        raise ValueError(f"{source} has both 'name' and 'sample'; keep the one that names the samples.")
    for column in columns:
        if not column or column.startswith("Unnamed: "):
            raise ValueError(f"{source} has a column without a name. Give it one, or leave it out (index=False).")
        if storable(column) != column:
            raise ValueError(
                f"{source}: the column {column!r} cannot be stored in obs. Rename it, such as "
                f"{storable(column) or 'group'!r}."
            )
        check_key(column, source)


def _path(value: object, folder: Path, source: str, row: int) -> Path:
    """Return the path in a cell, which stands for one store or file."""
    if not isinstance(value, (str, PathLike)) and not pd.isna(value):
        raise TypeError(f"{source}: row {row} has {type(value).__name__} as path; expected text.")
    text = clean_label(fspath(value)) if isinstance(value, (str, PathLike)) else ""
    _check_filled([text], PATH, source, row)
    return folder / check_path(f"{source}: row {row}", text)


def _check_filled(texts: Sequence[str], column: str, source: str, first: int = 1) -> None:
    """Raise if a cell is empty."""
    if empty := [row for row, text in enumerate(texts, first) if not text]:
        raise ValueError(
            f"{source}: rows have no {column}: {shorten(empty)}, counted from the first row below the header. Fill it "
            "in, or remove the row."
        )


def _check_once(texts: Sequence[str], what: str, source: str) -> None:
    """Raise if a text occurs twice."""
    if twice := [text for text, count in Counter(texts).items() if count > 1]:
        raise ValueError(f"{source}: {what} occur more than once: {shorten(twice, 3)}. Keep one row per sample.")


def _texts(column: pd.Series) -> list[str]:
    """Return values as text, ``""`` where missing; whole numbers have no decimals."""
    return ["" if pd.isna(value) else clean_label(_text(value)) for value in column.astype(object)]


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, (float, np.floating)) and float(value).is_integer() else str(value)


def _values(column: pd.Series) -> list[Any]:
    """Return numbers and truth values as they are, NaN where missing, and all else as text."""
    if not pd.api.types.is_numeric_dtype(column.dtype):
        return list(_texts(column))
    return [np.nan if pd.isna(value) else value for value in column.astype(object)]
