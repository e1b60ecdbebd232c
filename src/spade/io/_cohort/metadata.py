"""The table of all samples of HEST-1k."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd

from spade._checks import shorten
from spade.core.checks import check_path
from spade.io._bytes import check_file
from spade.io._files.damaged import reading
from spade.io._files.tables import table_text

#: Columns that say which samples these are.
COLUMNS = ("id", "organ", "species", "st_technology", "nb_genes")
#: Name of the table in a folder of the dataset.
NAME = "HEST_v*.csv"


def read_hest_metadata(path: str | Path) -> pd.DataFrame:
    """Read the table of all samples of HEST-1k, such as ``HEST_v1_1_0.csv``.

    Parameters
    ----------
    path
        The table, or the folder of the dataset that holds it.

    Returns
    -------
    DataFrame
        One row per sample, with all columns as they are; ``id`` and ``patient`` are text.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or no table in the folder.
    ValueError
        If the table is damaged, lacks ``id``, ``organ``, ``species``, ``st_technology`` or ``nb_genes``, or names a
        sample twice; or if the folder holds tables of several versions.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import pandas as pd
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "HEST_v1_1_0.csv"
    >>> facts = {"organ": "Breast", "species": "Homo sapiens", "st_technology": "Visium", "nb_genes": 17_943}
    >>> pd.DataFrame({"id": ["TENX99"], **facts}).to_csv(path, index=False)

    >>> import spade as sp
    >>> sp.io.read_hest_metadata(path.parent)["id"].tolist()
    ['TENX99']
    """
    return _read(_file(check_path("path", path)))


def newest_metadata(folder: Path) -> pd.DataFrame:
    """Read the table of a folder, of several versions the newest."""
    return _read(_tables(folder)[-1])


def _read(file: Path) -> pd.DataFrame:
    text, separator = table_text(file, "path")
    with reading(file, "a table of samples", "path"):
        frame = pd.read_csv(io.StringIO(text), sep=separator, dtype={"id": str, "patient": str}, low_memory=False)
    return check_metadata(frame, f"path={str(file)!r}")


def check_metadata(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return a table of samples; raise if it lacks a column, or does not name every sample once."""
    if missing := [name for name in COLUMNS if name not in frame]:
        raise ValueError(
            f"{source}: the columns {missing} are missing; there are {shorten(frame.columns)}. Expected the table of "
            "samples that HEST-1k publishes, such as HEST_v1_1_0.csv."
        )
    ids = frame["id"]
    if ids.isna().any() or not ids.is_unique:
        which = f"{int(ids.isna().sum())} rows have no id" if ids.isna().any() else shorten(ids[ids.duplicated()])
        raise ValueError(f"{source}: every sample has one row and an id, but {which}.")
    if not pd.api.types.is_numeric_dtype(frame["nb_genes"]):
        odd = frame["nb_genes"][pd.to_numeric(frame["nb_genes"], errors="coerce").isna()]
        raise ValueError(f"{source}: nb_genes is not a number everywhere, but also {shorten(map(str, odd))}.")
    return frame


def _file(path: Path) -> Path:
    """Return the table itself."""
    if not path.is_dir():
        check_file(path, "path")
        return path
    tables = _tables(path)
    if len(tables) > 1:
        raise ValueError(f"path={str(path)!r} holds several tables, {shorten(t.name for t in tables)}; name one file.")
    return tables[0]


def _tables(folder: Path) -> list[Path]:
    """Return the tables of a folder, the newest version last; early versions lay in ``metadata/``."""
    tables = [*folder.glob(NAME), *(folder / "metadata").glob(NAME)]
    if not tables:
        raise FileNotFoundError(f"path={str(folder)!r} holds no table {NAME}. Name the file, or download it to there.")
    return sorted(tables, key=lambda table: [int(number) for number in re.findall(r"\d+", table.stem)])
