"""Files of classic ST: count matrices, spot selections, alignments and labels."""

from __future__ import annotations

import io
import logging
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spade._checks import plural, shorten
from spade.core.arrays import Floats
from spade.io._bytes import read_text
from spade.io._files.damaged import reading
from spade.io._files.tables import table_text

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger("spade")
SPOT_ID = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*[xX_]\s*(-?\d+(?:\.\d+)?)\s*")


def read_counts(path: Path, duplicated_genes: str) -> tuple[list[str], list[str], csr_matrix]:
    """Return spot ids, gene names (both in the order of the file) and counts (spots × genes, float32 CSR)."""
    header, body, sep = _split(path, "counts")
    with reading(path, "a table of spots × genes", "counts"):
        frame = pd.read_csv(io.StringIO(body), sep=sep, header=None, dtype={0: str}, low_memory=False)
    genes = header[1:] if len(header) == frame.shape[1] else header
    if len(genes) != frame.shape[1] - 1:
        raise ValueError(
            f"counts={str(path)!r}: the first line names {plural(len(header), 'column')}, the next holds "
            f"{frame.shape[1]}. Expected genes in the first line, then one line per spot with its id and its counts."
        )
    duplicated = sorted(pd.Index(genes)[pd.Index(genes).duplicated()].unique())
    if duplicated and duplicated_genes == "error":
        raise ValueError(
            f"counts={str(path)!r}: gene names occur more than once: {shorten(duplicated)}. Rename them, or read with "
            "duplicated_genes='sum' to add up the counts of each name."
        )
    ids = frame[0].fillna("").tolist()
    if SPOT_ID.fullmatch(header[0]) and not all(SPOT_ID.fullmatch(name) for name in header):
        raise ValueError(f"counts={str(path)!r}: the first line is that of a spot, {header[0]!r}; expected gene names.")
    if not any(SPOT_ID.fullmatch(i) for i in ids) and all(SPOT_ID.fullmatch(g) for g in genes):
        raise ValueError(f"counts={str(path)!r} has genes in rows and spots in columns. Transpose it.")
    counts = csr_matrix(_raw(frame.iloc[:, 1:], ids, genes, path))
    if duplicated:
        codes, unique = pd.factorize(np.array(genes, dtype=object))
        add = csr_matrix((np.ones(len(codes), np.float32), (np.arange(len(codes)), codes)), (len(codes), len(unique)))
        logger.info("%s: counts of genes of the same name are summed: %s", path.name, shorten(duplicated))
        return ids, list(unique), csr_matrix(counts @ add)
    return ids, genes, counts


def _raw(values: pd.DataFrame, ids: list[str], genes: list[str], path: Path) -> Floats:
    """Return counts as float32, or raise with the first value that is not a count."""
    for i, dtype in enumerate(values.dtypes):
        if dtype.kind not in "iuf":
            column = values.iloc[:, i]
            wrong_entries = shorten(map(str, column[pd.to_numeric(column, errors="coerce").isna()]))
            raise ValueError(
                f"counts={str(path)!r}: gene {genes[i]!r} has entries that are not numbers, such as {wrong_entries}."
            )
    dense = values.to_numpy(dtype=np.float64)
    for wrong, what in (
        (~np.isfinite(dense), "missing or infinite"),
        (dense < 0, "negative"),
        (dense != np.rint(dense), "not whole"),
    ):
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ValueError(
                f"counts={str(path)!r}: {wrong.sum():,} values are {what}, the first {dense[row, column]:g} at spot "
                f"{ids[row]!r}, gene {genes[column]!r}. Expected raw counts (whole numbers from 0) in a complete file."
            )
    return np.asarray(dense, dtype=np.float32)


def parse_ids(ids: list[str], argument: str) -> Floats:
    """Return the array coordinates (column, row) of ids such as ``10x14``, ``16.92x9.015`` or ``17_9``, ``(n, 2)``."""
    matches = [SPOT_ID.fullmatch(i) for i in ids]
    bad = [i for i, match in zip(ids, matches, strict=True) if match is None]
    if bad:
        raise ValueError(
            f"{argument}: {len(bad)} of {plural(len(ids), 'spot id')} are not array coordinates ({shorten(bad)}). "
            "Expected ids such as '10x14', '16.92x9.015' or '17_9': column, then row."
        )
    return np.array([[float(m[1]), float(m[2])] for m in matches if m], dtype=np.float64).reshape(-1, 2)


def array_keys(array: Floats, ids: list[str], argument: str) -> pd.MultiIndex:
    """Return rounded array coordinates, by which files are joined, or raise if spots share them."""
    keys = pd.MultiIndex.from_arrays(list(np.floor(array + 0.5).astype(np.int64).T), names=["x", "y"])
    if keys.has_duplicates:
        twice = [ids[i] for i in np.flatnonzero(keys.duplicated(keep=False))]
        raise ValueError(
            f"{argument}: {len(twice)} spots share their array position with another ({shorten(twice)}). "
            "Spots must be distinct after rounding; split a file with several sections first."
        )
    return keys


def read_table(path: Path, argument: str) -> pd.DataFrame:
    """Read a TSV or CSV file; ``argument`` names it in messages."""
    header, body, sep = _split(path, argument)
    with reading(path, "a table", argument):
        return pd.read_csv(
            io.StringIO(body),
            sep=sep,
            header=None,
            names=header,
            index_col=False,
            dtype={"label": str},
            keep_default_na=False,
            na_values=["", "NA", "NaN", "nan"],
        )


def read_positions(path: Path, argument: str, table: pd.DataFrame | None = None) -> pd.DataFrame | Floats:
    """Read positions: a selection table (index: rounded x, y), or a 3 × 3 matrix from array to pixel coordinates."""
    if table is None:
        numbers = _numbers(path, argument)
        if numbers is not None:
            return _affine(numbers, path, argument)
        table = read_table(path, argument)
    missing = [c for c in ("x", "y", "pixel_x", "pixel_y") if c not in table]
    if missing:
        raise ValueError(
            f"{argument}={str(path)!r} has no column {', '.join(missing)}; there are "
            f"{', '.join(map(str, table.columns))}. Expected a selection with x, y (array) and pixel_x, pixel_y "
            "(image), or the 9 numbers of an alignment."
        )
    wanted = [c for c in ("x", "y", "new_x", "new_y", "pixel_x", "pixel_y") if c in table]
    numeric = table[wanted].apply(pd.to_numeric, errors="coerce")
    if not np.isfinite(numeric.to_numpy()).all():
        line = int(np.flatnonzero(~np.isfinite(numeric.to_numpy()).all(axis=1))[0])
        raise ValueError(f"{argument}={str(path)!r}: entry {line + 1} has coordinates that are missing or not numbers.")
    names = [f"{x:g}x{y:g}" for x, y in numeric[["x", "y"]].to_numpy()]
    numeric.index = array_keys(numeric[["x", "y"]].to_numpy(dtype=float), names, argument)
    if "selected" in table:
        numeric["selected"] = table["selected"].to_numpy() != 0
    return numeric


class Labels(NamedTuple):
    """Labels of spots."""

    #: Index: rounded x, y. NaN: unlabelled.
    of_spot: pd.Series
    ids: list[str]
    #: The file as it was read.
    table: pd.DataFrame


def read_labels(path: Path) -> Labels:
    """Read labels: one-hot with layers in rows and spots in columns, or a table with columns x, y and label."""
    table = read_table(path, "labels")
    if {"x", "y", "label"} <= set(table.columns):
        array = table[["x", "y"]].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
        if not np.isfinite(array).all():
            raise ValueError(f"labels={str(path)!r} has array coordinates that are missing or not numbers.")
        ids = [f"{x:g}x{y:g}" for x, y in array]
        values = table["label"].astype(object).where(table["label"].notna(), np.nan).to_numpy()
    else:
        ids = [str(c) for c in table.columns[1:]]
        if not ids or not all(SPOT_ID.fullmatch(i) for i in ids):
            raise ValueError(
                f"labels={str(path)!r} has columns {shorten(table.columns)}. Expected a table with x, y and label, or "
                "one with a line per layer and a column per spot (such as 17_9) that holds 1 if the spot belongs to "
                "the layer."
            )
        array = parse_ids(ids, "labels")
        hot = table.iloc[:, 1:].to_numpy()
        if not np.isin(hot, (0, 1)).all():
            raise ValueError(f"labels={str(path)!r}: entries of a one-hot table must be 0 or 1.")
        several = [ids[i] for i in np.flatnonzero(hot.sum(axis=0) > 1)]
        if several:
            raise ValueError(f"labels={str(path)!r}: spots have several labels: {shorten(several)}.")
        names = table.iloc[:, 0].astype(str).to_numpy(dtype=object)
        values = np.where(hot.any(axis=0), names[hot.argmax(axis=0)], np.nan)
    return Labels(pd.Series(values, index=array_keys(array, ids, "labels"), dtype=object), ids, table)


def _split(path: Path, argument: str) -> tuple[list[str], str, str]:
    """Return the fields of the first line, the rest, and the separator of a plain or gzipped text file."""
    text, sep = table_text(path, argument)
    first, _, body = text.lstrip("\n").partition("\n")
    if not body.strip():
        raise ValueError(f"{argument}={str(path)!r} holds no more than one line.")
    return [field.strip().strip('"') for field in first.split(sep)], body, sep


def _numbers(path: Path, argument: str) -> list[float] | None:
    """Return the nine numbers of an alignment file, None if the file is something else."""
    lines = read_text(path, argument).splitlines()
    words = " ".join(line for line in lines[:100] if not line.startswith("#")).split()
    try:
        return [float(word) for word in words] if len(words) == 9 else None
    except ValueError:
        return None


def _affine(numbers: list[float], path: Path, argument: str) -> Floats:
    """Return the matrix for column vectors.

    ST tools write it column by column, others row by row; the place of 0 0 1 shows which.
    """
    matrix = np.array(numbers).reshape(3, 3)
    last = np.array([0.0, 0.0, 1.0])
    if np.allclose(matrix[:, 2], last):
        matrix = matrix.T
    if not np.allclose(matrix[2], last) or abs(np.linalg.det(matrix)) < 1e-9:
        raise ValueError(
            f"{argument}={str(path)!r}: {numbers} is not an invertible affine transformation. "
            "Its last row (or column) must be 0 0 1."
        )
    return matrix
