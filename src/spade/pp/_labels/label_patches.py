"""Labels of people on patches: polygons drawn on the image, or tables of spots and samples."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from geopandas import GeoDataFrame

import spade.pp._labels.join as tables
import spade.pp._labels.sources as sources
from spade import _keys
from spade._checks import shorten
from spade._samples.obs import check_free
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.patches import patch_record, region_facts
from spade._samples.sample import check_names
from spade.core.errors import warn
from spade.io import _label_table
from spade.io._bytes import suffix
from spade.io._label_table import SAMPLE, SPOT, check_label_table, read_label_table
from spade.pp._labels.section import SectionLabels, label_section

logger = logging.getLogger("spade")
Annotations: TypeAlias = (
    pd.DataFrame | str | PathLike[str] | Mapping[str, GeoDataFrame | str | PathLike[str]]
)  # a GeoDataFrame is a DataFrame
#: ``obs`` columns to write, with the record of each.
Columns: TypeAlias = dict[str, tuple[Any, dict[str, Any] | None]]


def label_patches(
    samples: Samples,
    annotations: Annotations,
    *,
    columns: str | Sequence[str] | None = None,
    by: Literal["area", "centre"] = "area",
    min_share: float = 0.5,
    mpp: float | None = None,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    key_added: str | None = None,
) -> None:
    """Give patches the labels that people gave: polygons drawn on the image, or a table of spots or samples.

    Polygons: those of one label are united, and a patch gets the label that covers the largest share of it, if that is at
    least ``min_share``. Shares that differ by less than 1e-6, as under nested outlines, are a tie: it goes to the label
    whose (united) outlines on the patch are the smaller in total, and so the more specific; then by the alphabet. Of a
    patch that crosses the border of the image, the part on the image counts; one whose centre is off the image gets no label.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these.
    annotations
        Polygons: a ``GeoDataFrame`` or the path of a GeoJSON file, if there is one section; the name of a shapes element that
        the samples have, which its transformations put onto the image; or a dict from section to any of these. A section is
        called as its sample, or ``"sample/region"`` where the table has several regions.
        Table (``DataFrame`` or the path of a CSV or TSV file; see :func:`spade.io.read_annotations`): with a column ``spot``,
        joined by instance id, or by obs name if that finds more spots; else joined by ``sample`` to all spots of the sample (or
        section). A ``str`` that ends as a file name of these kinds is a path.
    columns
        Polygons: the column with the labels, by default ``"label"``. Table: columns to write, by default all but the keys.
    by
        Polygons: ``"area"``, or ``"centre"`` for the label that is drawn over the centre of the patch, whatever its share; of several,
        that with the smaller outline.
    min_share
        Polygons: share of the patch that its label must cover, with ``by="area"``.
    mpp
        Polygons: microns per pixel of the image that was annotated, if it is not the patches' image at its finest level.
    patches_key
        Polygons: what :func:`patches` wrote.
    table_key
        Table of the samples; may be left out when there is one.
    key_added
        ``obs`` column to write: by default ``"label"``; for tables the columns' own names, and only one can be renamed.

    Returns
    -------
    None
        Polygons: writes the categorical ``obs["label"]`` (NaN: no label) and ``obs["label_share"]``, the share of the patch that
        its label covers (NaN without one). Table: writes ``obs[column]``, strings as a categorical. All samples get
        the same categories. Columns that are there are overwritten.

    Raises
    ------
    KeyError
        If patches, a column or a shapes element is not there, polygons name a section that is not, or a table none that is.
    ValueError
        If geometries are empty or not areas, no polygon has a label, all polygons lie off the image, a spot or sample is
        named twice, no spot of a table is in the sample, or a name is in use.

    Warns
    -----
    UserWarning
        With the numbers of polygons that were repaired, have no label or lie off the image; of sections without annotations; of
        spots and samples in a table that are not there.

    Examples
    --------
    >>> import geopandas, shapely
    >>> import spade as sp
    >>> (sdata,) = sp.datasets.toy(1, 30)
    >>> sp.pp.patches(sdata)
    >>> drawn = geopandas.GeoDataFrame({"label": ["tissue"]}, geometry=[shapely.box(0, 0, 5000, 5000)])
    >>> sp.pp.label_patches(sdata, drawn)
    >>> sdata["table"].obs["label"].unique().tolist()
    ['tissue']
    >>> import pandas as pd
    >>> stages = pd.DataFrame({"sample": [sdata.attrs["spade"]["sample"]], "stage": ["II"]})
    >>> sp.pp.label_patches(sdata, stages)
    >>> sdata["table"].obs["stage"].unique().tolist()
    ['II']
    """
    if by not in ("area", "centre"):
        raise ValueError(f"by={by!r} must be 'area' or 'centre'.")
    if not 0 < min_share <= 1:
        raise ValueError(f"min_share={min_share!r}: expected a share above 0 and up to 1.")
    if mpp is not None and not (np.isfinite(mpp) and mpp > 0):
        raise ValueError(f"mpp={mpp!r}: expected a positive number of microns per pixel.")
    samples = as_list(samples)
    given = _as_table(annotations)
    if given is not None:
        if mpp is not None:
            raise ValueError("mpp= is for polygons, but annotations= is a table.")
        written, notes = _of_table(samples, *given, columns, key_added, table_key)
    else:
        if columns is not None and not isinstance(columns, str):
            raise ValueError(f"columns={columns!r}: polygons have one column of labels; name it.")
        key = _keys.check_key("label" if key_added is None else key_added)
        settings = {"by": by, "min_share": float(min_share), "mpp": None if mpp is None else float(mpp)}
        written, notes = _of_polygons(samples, annotations, columns or "label", settings, patches_key, table_key, key)
    for note in notes:
        warn(note)
    for sample, values in zip(iter_samples(samples, table_key=table_key), written, strict=True):
        for key, (value, record) in values.items():
            sample.table.obs[key] = value
            if record:
                _keys.write_provenance(sample.table.uns, key, function="pp.label_patches", **record)
                labelled = int(sample.table.obs[key].notna().sum())
                logger.info("%s: wrote obs[%r]: %d of %d spots labelled", sample.name, key, labelled, len(value))
        sample.save()


def _as_table(annotations: Annotations) -> tuple[pd.DataFrame, str] | None:
    """Return a table and what to call it, None if the annotations are polygons."""
    if isinstance(annotations, pd.DataFrame):
        named = "annotations="
        return None if isinstance(annotations, GeoDataFrame) else (check_label_table(annotations, named), named)
    if isinstance(annotations, (str, PathLike)) and suffix(Path(annotations)) in _label_table.SUFFIXES:
        return read_label_table(Path(annotations), argument="annotations"), f"annotations={str(annotations)!r}"
    return None


def _of_table(
    samples: Samples,
    frame: pd.DataFrame,
    source: str,
    columns: str | Sequence[str] | None,
    key_added: str | None,
    table_key: str | None,
) -> tuple[list[Columns], list[str]]:
    """Columns of every sample, and what to warn of."""
    chosen = tables.chosen_columns(frame, columns, source)
    if key_added is not None and len(chosen) > 1:
        raise ValueError(
            f"key_added={key_added!r} renames one column, but {source} gives {shorten(chosen)}. Set columns=."
        )
    keys = {column: _keys.check_key(key_added) if key_added is not None else column for column in chosen}
    record = {"by": SPOT if SPOT in frame else SAMPLE}
    written: list[Columns] = []
    names: list[str] = []
    without: list[str] = []
    lost = 0
    items = as_list(samples)
    for sample in iter_samples(items, table_key=table_key):
        for key in keys.values():
            check_free(sample, key)
        positions, unused = tables.join(sample, frame, len(items) == 1, source)
        written.append({keys[c]: (tables.values_of(frame[c], positions), record) for c in chosen})
        names += dict.fromkeys([sample.name, *(section.name for section in sample.sections)])
        lost += unused
        without += [section.name for section in sample.sections if (positions[section.rows] < 0).all()]
    check_names(names)
    notes = []
    if lost:
        notes.append(f"{lost} of {len(frame)} spots in {source} are not in the samples; their labels are not used.")
    if SAMPLE in frame and (others := sorted(set(frame[SAMPLE]) - set(names))):
        if not set(frame[SAMPLE]) & set(names):
            sources.check_known(others, names, source)
        notes.append(f"{source} also names {shorten(others)}, which no sample is called; not used.")
    return written, notes + _without(without, source)


def _of_polygons(
    samples: Samples,
    annotations: Any,
    column: str,
    settings: dict[str, Any],
    patches_key: str,
    table_key: str | None,
    key: str,
) -> tuple[list[Columns], list[str]]:
    """Columns of every sample, and what to warn of."""
    names = [section.name for sample in iter_samples(samples, table_key=table_key) for section in sample.sections]
    check_names(names, "sections")
    given = sources.by_section(annotations, names, column)
    found: list[tuple[sources.Outlines, SectionLabels]] = []
    labelled: list[tuple[np.ndarray, np.ndarray]] = []
    empty = []
    for sample in iter_samples(samples, table_key=table_key):
        for name in (key, f"{key}_share"):
            check_free(sample, name)
        labels, shares = np.full(sample.table.n_obs, None, dtype=object), np.full(sample.table.n_obs, np.nan)
        for section in sample.sections:
            if section.name not in given:
                continue
            record = patch_record(sample, patches_key)
            facts = region_facts(record, section)
            outlines = sources.in_pixels(sample, section, given[section.name], column, settings["mpp"], facts)
            side = record["size_um"] / facts["mpp"]
            result = label_section(sample, section, facts, side, outlines, settings["by"], settings["min_share"])
            labels[section.rows], shares[section.rows] = result.labels, result.shares
            found.append((outlines, result))
            empty += [section.name] if pd.isna(result.labels).all() else []
        labelled.append((labels, shares))
    categories = sorted({label for outlines, _ in found for label in outlines.labels if label is not None})
    total = sum(len(outlines.labels) for outlines, _ in found)
    if not categories:
        raise ValueError(
            f"annotations=: none of the {total} polygons has a label in column {column!r}. Classify them first."
        )
    record = {
        **settings,
        "min_share": settings["min_share"] if settings["by"] == "area" else None,
        "patches_key": patches_key,
    }
    written: list[Columns] = [
        {key: (pd.Categorical(labels, categories=categories), record), f"{key}_share": (shares, None)}
        for labels, shares in labelled
    ]
    notes = [
        f"annotations=: {count} of {total} polygons {said}."
        for count, said in (
            (sum(outlines.repaired for outlines, _ in found), "were not valid and are repaired; only areas are kept"),
            (sum(int(pd.isna(outlines.labels).sum()) for outlines, _ in found), "have no label and label nothing"),
            (sum(result.outside for _, result in found), "lie outside the image"),
        )
        if count
    ]
    if empty:
        notes.append(
            f"{shorten(empty)}: no patch got a label. Check min_share=, and mpp= if another image was annotated."
        )
    return written, notes + _without([name for name in names if name not in given], "annotations=")


def _without(names: list[str], source: str) -> list[str]:
    return [f"{source} says nothing of {shorten(names)}; the labels there are missing."] if names else []
