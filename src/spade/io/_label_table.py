"""Tables of labels: per spot, or per sample."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from spade._checks import MISSING, plural, shorten
from spade.io._bytes import MAX_BYTES
from spade.io._files.damaged import reading
from spade.io._files.tables import table_text

SUFFIXES = (".csv", ".tsv", ".txt")
SAMPLE, SPOT = "sample", "spot"
#: Names of columns that hold samples and spots, in lower case and with ``_`` between words.
SAMPLE_NAMES = ("sample", "sample_id", "sample_name", "slide", "slide_id", "slide_name", "section", "section_id", "id")
SPOT_NAMES = ("spot", "spot_id", "spot_name", "barcode", "barcodes", "instance_id", "cell_id", "obs_name", "obs_names")
#: Digits of the largest whole number that is kept as one.
MOST_DIGITS = 18
#: Numbers have no leading zeros: 007 is a name. An exponent needs a sign or decimals: 1E2 is a name, as hex ids are.
NUMBER = re.compile(r"[+-]?(?P<whole>0|[1-9]\d*)(?:\.(?P<decimals>\d*)(?:[eE][+-]?\d+)?|[eE][+-]\d+)?")


def read_label_table(
    path: Path,
    *,
    sample_col: str | None = None,
    spot_col: str | None = None,
    most: int = MAX_BYTES,
    argument: str = "path",
) -> pd.DataFrame:
    """Read a table with the columns ``sample`` or ``spot`` or both, and at least one column of labels."""
    source = f"{argument}={str(path)!r}"
    text, separator = table_text(path, argument, most)
    with reading(path, "a table of comma- or tab-separated values", argument):
        header, rows = _fields(text, separator, source)
    sample = _key_column(header, SAMPLE_NAMES, sample_col, "sample_col", source)
    spot = _key_column(header, SPOT_NAMES, spot_col, "spot_col", source)
    if sample is None and spot is None:
        raise ValueError(
            f"{source} has no column that names samples or spots; columns: {shorten(header, 20)}. Name it with "
            "sample_col= or spot_col=."
        )
    if sample == spot:
        raise ValueError(f"{source}: sample_col= and spot_col= are both {sample!r}; one column names samples or spots.")
    keys = {column: key for column, key in ((sample, SAMPLE), (spot, SPOT)) if column is not None}
    rest = [column for column in header if column not in keys]
    taken = [column for column in rest if column in keys.values() or not column]
    if taken:
        raise ValueError(
            f"{source}: a column {taken[0]!r} stands beside {shorten(keys)}, which is used as "
            f"{shorten(keys.values())}. {'Rename it' if taken[0] else 'Give it a name'}, or choose with sample_col= or "
            "spot_col=."
        )
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    frame = pd.DataFrame({key: np.array(columns[column], dtype=object) for column, key in keys.items()})
    for column in rest:
        frame[column] = _values(columns[column])
    return check_label_table(frame, source)


def read_columns(path: Path, argument: str, names: Sequence[str] = (), most: int = MAX_BYTES) -> dict[str, pd.Series]:
    """Read a table with a header: columns of numbers where all entries are numbers, else of text, as ``names`` are."""
    text, separator = table_text(path, argument, most)
    with reading(path, "a table of comma- or tab-separated values", argument):
        header, rows = _fields(text, separator, f"{argument}={str(path)!r}")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    return {
        name: pd.Series(values, dtype=object) if name in names else _values(values) for name, values in columns.items()
    }


def check_label_table(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """Raise unless every row names a sample or spot, each only once; names are returned as strings."""
    _check_names(frame.columns, source)
    keys = [key for key in (SAMPLE, SPOT) if key in frame]
    if not keys:
        raise ValueError(
            f"{source} has no column 'sample' or 'spot'; columns: {shorten(frame.columns, 20)}. Rename the one that "
            "names samples or spots, or read a file with sp.io.read_annotations."
        )
    if len(frame.columns) == len(keys):
        raise ValueError(f"{source} holds nothing but {' and '.join(keys)}; expected at least one column of labels.")
    if not len(frame):
        raise ValueError(f"{source} has no rows.")
    frame = frame.reset_index(drop=True)
    for key in keys:
        lacking = frame[key].isna() | frame[key].astype(str).str.strip().isin(MISSING)
        if lacking.any():
            lines = shorten(frame.index[lacking] + 1)
            raise ValueError(f"{source}: rows have no {key}: {lines}, counted from the first row below the header.")
        frame[key] = frame[key].astype(str).str.strip().astype(object)
    twice = frame.duplicated(keys)
    if twice.any():
        repeated = frame.loc[twice, keys].drop_duplicates().agg("/".join, axis=1)
        hint = {
            SAMPLE: f"Keep one row for each. If rows are spots, call their column {SPOT!r}, or name it with spot_col=.",
            SPOT: "Keep one row for each, or add a column with the sample.",
        }.get("/".join(keys), "Keep one row for each.")
        raise ValueError(f"{source}: {keys[-1]}s occur more than once: {shorten(repeated)}. {hint}")
    return frame


def _check_names(columns: Iterable[str], source: str) -> None:
    """Raise if columns share a name."""
    if repeated := [name for name, count in Counter(columns).items() if count > 1]:
        raise ValueError(f"{source} has columns of the same name, {shorten(repeated)}. Rename them.")


def _fields(text: str, sep: str, source: str) -> tuple[list[str], list[list[str]]]:
    """Return header and rows as stripped strings, without empty lines."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sep, strict=True)
    lines = [[field.strip() for field in row] for row in reader]
    numbered = [(number, row) for number, row in enumerate(lines, 1) if any(row)]
    if len(numbered) < 2:
        raise ValueError(f"{source} holds no more than one line; expected a header and one line per spot or sample.")
    header = numbered[0][1]
    wrong = [number for number, row in numbered if len(row) != len(header)]
    if wrong:
        raise ValueError(
            f"{source}: the header names {plural(len(header), 'column')}, but the number of fields differs in lines: "
            f"{shorten(wrong)}. Quote fields that contain the separator {sep!r}; if the file was cut off, download it "
            "again."
        )
    _check_names(header, source)
    return header, [row for _, row in numbered[1:]]


def _key_column(
    header: Sequence[str], known: Sequence[str], chosen: str | None, argument: str, source: str
) -> str | None:
    """Return the column that names samples or spots: the chosen one, else the only one with a known name."""
    if chosen is not None:
        if chosen not in header:
            raise KeyError(f"{source}: {argument}={chosen!r} is not a column; columns: {shorten(header, 20)}.")
        return chosen
    candidates = [name for name in header if re.sub(r"[\s.-]+", "_", name.lower()) in known]
    if len(candidates) > 1:
        raise ValueError(f"{source}: several columns may be meant, {shorten(candidates)}. Choose one with {argument}=.")
    return candidates[0] if candidates else None


def _values(column: list[str]) -> pd.Series:
    """Return numbers if all entries are numbers (whole ones stay whole), else strings; empty entries are missing."""
    present = [value for value in column if value not in MISSING]
    if not _are_numbers(present):
        return pd.Series([np.nan if value in MISSING else value for value in column], dtype=object)
    if any(re.search(r"[.eE]", value) for value in present):
        return pd.Series([np.nan if value in MISSING else float(value) for value in column])
    exact = pd.array([pd.NA if value in MISSING else int(value) for value in column], dtype="Int64")
    return pd.Series(exact if len(present) < len(column) else exact.astype(np.int64))


def _are_numbers(texts: list[str]) -> bool:
    """Whether texts are numbers as a program writes them, and not names that look like some.

    A program writes the same number of decimals everywhere, or no zero at their end. Else they are names: as numbers,
    the clusters 1.1 and 1.10 would be one. Whole numbers of many digits are names too, since they would be rounded.
    """
    matches = [NUMBER.fullmatch(text) for text in texts]
    found = [match for match in matches if match]
    if not texts or len(found) < len(texts) or max(len(match["whole"]) for match in found) > MOST_DIGITS:
        return False
    decimals = {match["decimals"] for match in found if match["decimals"]}
    return len(set(map(len, decimals))) < 2 or not any(part.strip("0") and part.endswith("0") for part in decimals)
