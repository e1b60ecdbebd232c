"""Find and read the samples in a folder, in any of the known layouts."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from spatialdata import SpatialData

from spade import _keys
from spade._checks import plural
from spade.io import read_hest, read_st
from spade.io._files.damaged import reading
from spade.io._files.store import read_store
from spade.io._files.tables import table_text

logger = logging.getLogger("spade")
IMAGES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}
TABLES = (".tsv", ".tsv.gz", ".txt", ".txt.gz", ".csv", ".csv.gz")
SPOT_ID = re.compile(r"\d+(\.\d+)?[x_]\d+(\.\d+)?")


def find_samples(folder: Path, leave_out: Path | None = None) -> list[SpatialData]:
    """Read the SpatialData stores, HEST-1k samples and classic ST sections in ``folder``, except in ``leave_out``."""
    if not folder.is_dir():
        raise FileNotFoundError(f"data={str(folder)!r} is not a folder.")
    samples = list(_read(folder, folder, leave_out and leave_out.resolve()))
    if not samples:
        raise FileNotFoundError(
            f"data={str(folder)!r} holds no known samples: looked for .zarr stores of SpatialData, a HEST-1k folder "
            "(wsis/ and st/), and folders with one image and a table of spots × genes (classic ST). Read samples of "
            "other platforms with spatialdata-io, save them with sp.io.write, and point --data to the stores."
        )
    return samples


def _read(place: Path, root: Path, leave_out: Path | None) -> Iterator[SpatialData]:
    if place.suffix == ".zarr":
        yield _store(place, root)
    elif (place / "wsis").is_dir() and (place / "st").is_dir():
        for path in sorted((place / "st").glob("*.h5ad")):
            yield read_hest(place, path.stem)
    else:
        yield from _classic(place)
        for below in sorted(path for path in place.iterdir() if path.is_dir()):
            # spatial/ holds pictures and positions of a Visium section, which is not classic ST
            if below.name != "spatial" and below.resolve() != leave_out:
                yield from _read(below, root, leave_out)


def _store(path: Path, root: Path) -> SpatialData:
    """Read a store; without a recorded name, the sample is named after its path, as stores often share a name."""
    sdata = read_store(path, "data")
    known = sdata.attrs.get(_keys.UNS, {})
    place = path.name if path == root else path.relative_to(root).as_posix()
    sdata.attrs[_keys.UNS] = {"sample": place.removesuffix(".zarr"), **known}
    return sdata


def _classic(place: Path) -> list[SpatialData]:
    """Read the sections of a folder: one image, with one or more tables of counts, or with labels alone."""
    images = [path for path in sorted(place.iterdir()) if path.suffix.lower() in IMAGES]
    if len(images) != 1:
        return []
    kinds: dict[str, list[Path]] = {"counts": [], "spots": [], "labels": []}
    for path in sorted(place.iterdir()):
        if path.name.lower().endswith(TABLES) and (kind := _kind(path)):
            kinds[kind].append(path)
    counts: list[Path | None] = list(kinds["counts"])
    if not counts and not kinds["labels"]:
        return []
    spots, labels = (next(iter(kinds[kind]), None) for kind in ("spots", "labels"))
    names = [place.name] if len(counts) < 2 else [f"{place.name}_{i + 1}" for i in range(len(counts))]
    logger.info("%s: classic ST, %s", place, plural(len(names), "section"))
    return [
        read_st(table, images[0], spots, labels=labels, sample_id=name, duplicated_genes="sum")
        for table, name in zip(counts or [None], names, strict=True)
    ]


def _kind(path: Path) -> str | None:
    """Return what a table holds, by its header and first row."""
    text, separator = table_text(path, "data")
    with reading(path, "a table", "data"):
        head = pd.read_csv(io.StringIO(text), sep=separator, nrows=1, index_col=0, dtype=str)
    columns = [str(column) for column in head.columns]
    if "pixel_x" in columns and "label" not in columns:
        return "spots"
    if "label" in columns or (columns and SPOT_ID.fullmatch(columns[0])):
        return "labels"
    return "counts" if len(head) and SPOT_ID.fullmatch(str(head.index[0])) else None
