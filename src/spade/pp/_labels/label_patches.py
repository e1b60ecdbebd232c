"""Manual labels on patches, from polygons drawn on the image or from tables of spots and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from geopandas import GeoDataFrame

import spade.pp._labels.join as tables
import spade.pp._labels.sources as sources
from spade import _keys
from spade._checks import plural, shorten
from spade._said.lines import speaks, wrote
from spade._samples.obs import check_free
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.patches import patch_record, placed_patches
from spade._samples.sample import Sample, check_names
from spade.core.checks import brief, check_choice, check_flag, check_ordered, check_path, check_positive, check_share
from spade.core.errors import warn
from spade.io import _label_table
from spade.io._bytes import suffix
from spade.io._label_table import SAMPLE, SPOT, check_label_table, read_label_table
from spade.pp._labels.section import SectionLabels, label_section
from spade.pp._labels.sources import Outlines, PolygonSettings

Annotations: TypeAlias = (
    pd.DataFrame | str | PathLike[str] | Mapping[str, GeoDataFrame | str | PathLike[str]]
)  # a GeoDataFrame is a DataFrame
#: ``obs`` columns to write, each with its record.
Columns: TypeAlias = dict[str, tuple[Any, dict[str, Any] | None]]


@speaks
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
    in_bounds: bool | None = None,
) -> None:
    """Label patches from polygons drawn on the image, or from a table of spots or samples.

    Polygons of one label are united, and a patch gets the label that covers the largest share of it, if this share is
    at least ``min_share``. Shares that differ by less than 1e-6, as under nested outlines, are a tie; it goes to the
    label whose (united) outlines on the patch have the smaller total area, which is the more specific label, then by
    the alphabet. If a patch crosses the border of the image, only the part on the image counts; a patch whose centre is
    off the image gets no label.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    annotations
        Polygons: a ``GeoDataFrame`` or the path of a GeoJSON file, if there is one section; the name of a shapes
        element of the samples, which its transformations map to the image; or a dict from section to any of these. A
        section has the name of its sample, or ``"sample/region"`` if the table has several regions.
        Table (``DataFrame`` or the path of a CSV or TSV file; see :func:`spade.io.read_annotations`): with a column
        ``spot``, joined by instance id, or by obs name if that finds more spots; else joined by ``sample`` to all spots
        of the sample (or section). A ``str`` that ends like the name of such a file is a path.
    columns
        Polygons: the column with the labels; None: ``"label"``. Table: columns to write; None: all but ``sample`` and
        ``spot``.
    by
        Polygons: ``"area"``, or ``"centre"`` for the label drawn over the centre of the patch, whatever its share; of
        several, the one with the smaller outline.
    min_share
        Polygons: share of the patch that its label must cover, above 0 and up to 1; only with ``by="area"``.
    mpp
        Polygons: microns per pixel of the annotated image; None: it was the patches' image at its finest level.
    patches_key
        Polygons: what :func:`patches` wrote.
    table_key
        Table of the samples; may be left out when there is one.
    key_added
        ``obs`` column to write; None: ``"label"`` or, for tables, the columns' own names. Only a single column can be
        renamed.
    in_bounds
        Polygons in pixels: QuPath opens a slide that it reads through OpenSlide cropped to its bounds (MRXS, SCN and
        others), and counts pixels from their corner. True: so do the polygons of every slide of which bounds are
        recorded, as :func:`spade.io.read_wsi` does. None: so do those of a GeoJSON file; for a ``GeoDataFrame``, or
        with ``mpp``, say which, for slides with bounds. False: they count from the corner of the whole slide, as QuPath
        with ``--no-crop`` does and other programs do. For images without recorded bounds all three are the same.

    Returns
    -------
    None
        Polygons: writes the categorical ``obs["label"]`` (NaN: no label) and ``obs["label_share"]``, the share of the
        patch that its label covers (NaN without one). Table: writes ``obs[column]``, strings as a categorical; in the
        name, ``_`` stands for blanks and what else a zarr store does not accept. All samples get the same categories.
        Existing columns are overwritten.

    Raises
    ------
    KeyError
        Patches, a column or a shapes element that is not there; polygons that name an unknown section, or a table that
        names no known one.
    ValueError
        Geometries that are empty or not areas, no polygon with a label, all polygons off the image, polygons of a slide
        with bounds that do not say whether they count from them (``in_bounds``), a spot or sample named twice, no spot
        of a table in the sample, or a name that is in use.

    Warns
    -----
    UserWarning
        Columns that are stored under another name; numbers of polygons that were repaired, have no label or lie off the
        image; sections without annotations; spots and samples of a table that are not there.

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
    check_choice("by", by, ("area", "centre"))
    min_share = check_share("min_share", min_share, "(0, 1]")
    if mpp is not None:
        mpp = check_positive("mpp", mpp, "microns per pixel")
    if key_added is not None:
        _keys.check_key(key_added)
    if in_bounds is not None:
        check_flag("in_bounds", in_bounds)
    _check_columns(columns)
    samples = as_list(samples, writes=True)
    table = _as_table(annotations)
    if table is not None:
        for name, value in (("mpp", mpp), ("in_bounds", in_bounds)):
            if value is not None:
                raise ValueError(f"{name}={value!r} is for polygons, but annotations= is a table; leave {name}= out.")
        written, notes = _from_table(samples, *table, columns, key_added, table_key)
    elif columns is not None and not isinstance(columns, str):
        raise ValueError(f"columns={columns!r}: polygons have one column of labels; name it.")
    else:
        settings = PolygonSettings(columns or "label", by, min_share, mpp, patches_key, in_bounds)
        written, notes = _from_polygons(samples, annotations, settings, table_key, key_added or "label")
    for note in notes:
        warn(note)
    for sample, values in zip(iter_samples(samples, table_key=table_key, writes=True), written, strict=True):
        _write(sample, values)


def _check_columns(columns: object) -> None:
    """Raise unless these are None, a name or several."""
    check_ordered("columns", columns)
    names = [columns] if columns is None or isinstance(columns, str) else columns
    if not isinstance(names, Sequence) or not all(name is None or (isinstance(name, str) and name) for name in names):
        raise ValueError(f"columns={brief(columns)}: expected the name of a column, or a list of names.")


def _write(sample: Sample, values: Columns) -> None:
    """Write columns and their records, and save the sample."""
    for key, (value, record) in values.items():
        sample.table.obs[key] = value
        if record:
            _keys.write_provenance(sample.table.uns, key, function="pp.label_patches", **record)
            _keys.write_parts(sample.table.uns, key, *{f"{key}_share"} & {*values})
            labelled = int(sample.table.obs[key].notna().sum())
            wrote(sample.name, f"obs[{key!r}]", detail=f"{labelled:,} of {plural(len(value), 'spot')} labelled")
    sample.save()


def _as_table(annotations: object) -> tuple[pd.DataFrame, str] | None:
    """Return a table and what to call it, None if the annotations are polygons."""
    if isinstance(annotations, pd.DataFrame):
        source = "annotations="
        return None if isinstance(annotations, GeoDataFrame) else (check_label_table(annotations, source), source)
    if isinstance(annotations, (str, PathLike)):
        path = check_path("annotations", annotations)
        if suffix(path) in _label_table.SUFFIXES:
            return read_label_table(path, argument="annotations"), f"annotations={str(annotations)!r}"
    return None


def _from_table(
    samples: Samples,
    frame: pd.DataFrame,
    source: str,
    columns: str | Sequence[str] | None,
    key_added: str | None,
    table_key: str | None,
) -> tuple[list[Columns], list[str]]:
    """Return the columns of every sample, and what to warn about."""
    chosen = tables.chosen_columns(frame, columns, source)
    if key_added is not None and len(chosen) > 1:
        raise ValueError(
            f"key_added={key_added!r} renames one column, but {source} has {shorten(chosen)}. Choose one with columns=."
        )
    keys = {chosen[0]: key_added} if key_added is not None else tables.storage_keys(chosen, source)
    record = {"by": SPOT if SPOT in frame else SAMPLE}
    written: list[Columns] = []
    names: list[str] = []
    without: list[str] = []
    n_unused = 0
    items = as_list(samples)
    for sample in iter_samples(items, table_key=table_key):
        for key in keys.values():
            check_free(sample, key)
        positions, unused = tables.join(sample, frame, source, only=len(items) == 1)
        written.append({key: (tables.values_of(frame[column], positions), record) for column, key in keys.items()})
        names += dict.fromkeys([sample.name, *(section.name for section in sample.sections)])
        n_unused += unused
        without += [section.name for section in sample.sections if (positions[section.rows] < 0).all()]
    check_names(names)
    renamed = [f"{column!r} as obs[{key!r}]" for column, key in keys.items() if key_added is None and key != column]
    notes = [f"{source}: wrote {', '.join(renamed)}, names that a zarr store accepts."] if renamed else []
    if n_unused:
        notes.append(f"{n_unused} of {len(frame)} spots in {source} are not in the samples; their labels are not used.")
    if SAMPLE in frame and (others := sorted(set(frame[SAMPLE]) - set(names))):
        if not set(frame[SAMPLE]) & set(names):
            sources.check_known(others, names, source)
        notes.append(f"{source} also names {shorten(others)}, but no sample has this name; these rows are not used.")
    return written, notes + _without(without, source)


def _from_polygons(
    samples: Samples, annotations: object, settings: PolygonSettings, table_key: str | None, key: str
) -> tuple[list[Columns], list[str]]:
    """Return the columns of every sample, and what to warn about."""
    names = [section.name for sample in iter_samples(samples, table_key=table_key) for section in sample.sections]
    check_names(names, "sections")
    given = sources.by_section(annotations, names, settings.column)
    sections: dict[str, tuple[Outlines, SectionLabels]] = {}
    labels_of_samples, shares_of_samples = [], []
    for sample in iter_samples(samples, table_key=table_key):
        for name in (key, f"{key}_share"):
            check_free(sample, name)
        labels, shares = np.full(sample.table.n_obs, None, dtype=object), np.full(sample.table.n_obs, np.nan)
        for section in sample.sections:
            if section.name in given:
                placed = placed_patches(sample, section, patch_record(sample, settings.patches_key))
                outlines = sources.in_pixels(sample, section, given[section.name], settings, placed)
                result = label_section(section.name, placed, outlines, settings)
                labels[section.rows], shares[section.rows] = result.labels, result.shares
                sections[section.name] = outlines, result
        labels_of_samples.append(labels)
        shares_of_samples.append(shares)
    categories = sorted({label for outlines, _ in sections.values() for label in outlines.labels if label is not None})
    if not categories:
        total = sum(len(outlines.labels) for outlines, _ in sections.values())
        raise ValueError(
            f"annotations=: none of the {total} polygons has a label in column {settings.column!r}. Classify them "
            "first."
        )
    record = {
        "by": settings.by,
        "min_share": settings.min_share if settings.by == "area" else None,
        "mpp": settings.mpp,
        "patches_key": settings.patches_key,
    }
    written: list[Columns] = [
        {key: (pd.Categorical(labels, categories=categories), record), f"{key}_share": (shares, None)}
        for labels, shares in zip(labels_of_samples, shares_of_samples, strict=True)
    ]
    return written, _notes(sections) + _without([name for name in names if name not in given], "annotations=")


def _notes(sections: Mapping[str, tuple[Outlines, SectionLabels]]) -> list[str]:
    """Return what to warn about, of polygons by section."""
    total = sum(len(outlines.labels) for outlines, _ in sections.values())
    n_repaired = sum(outlines.n_repaired for outlines, _ in sections.values())
    n_unlabelled = sum(int(pd.isna(outlines.labels).sum()) for outlines, _ in sections.values())
    n_outside = sum(result.n_outside for _, result in sections.values())
    counts = {
        "were not valid and are repaired; only areas are kept": n_repaired,
        "have no label and label nothing": n_unlabelled,
        "lie outside the image": n_outside,
    }
    notes = [f"annotations=: {count} of {total} polygons {text}." for text, count in counts.items() if count]
    if empty := [name for name, (_, result) in sections.items() if pd.isna(result.labels).all()]:
        notes.append(
            f"{shorten(empty)}: no patch got a label. Check min_share=, and mpp= if another image was annotated."
        )
    return notes


def _without(names: list[str], source: str) -> list[str]:
    """Return what to warn about, of sections without annotations."""
    return [f"{source} does not mention {shorten(names)}; labels there are missing."] if names else []
