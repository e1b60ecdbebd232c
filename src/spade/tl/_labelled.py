"""Labelled rows of many samples, and their representations."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spade import _keys
from spade._checks import shorten
from spade._patches import patch_record, section_points
from spade._samples import Sample, Samples, check_names, group_labels, iter_samples, read_features
from spade.core.arrays import Floats
from spade.tl._labels import read_labels

logger = logging.getLogger("spade")
SCALINGS = ("section", "support", "none")
#: A representation: an ``obsm`` key, or several that are put side by side.
Representation = str | tuple[str, ...]


@dataclass
class Rows:
    """Rows of all samples together, of which ``labelled`` have a label and every representation.

    Attributes
    ----------
    x
        One array ``(n, d)`` per representation, of all rows that have every representation.
    y
        Class number; -1: no label.
    classes
        Names of the classes.
    section, group
        Names per row.
    points
        ``(n, 2)`` centres in µm within the section, if asked for.
    """

    x: dict[str, NDArray[np.float32]]
    y: NDArray[np.int64]
    classes: list[str]
    section: NDArray[np.str_]
    group: NDArray[np.str_]
    points: Floats | None


def named_representations(use_rep: object) -> dict[str, tuple[str, ...]]:
    """Return a name and the keys of every representation asked for."""
    if isinstance(use_rep, (str, tuple)):
        use_rep = [use_rep]
    if isinstance(use_rep, Mapping):
        named = dict(use_rep)
    elif isinstance(use_rep, Sequence):
        named = {one if isinstance(one, str) else " + ".join(map(str, one)): one for one in use_rep}
    else:
        named = {}
    keys = {name: (one,) if isinstance(one, str) else tuple(one) for name, one in named.items()}
    if not keys or not all(one and all(isinstance(key, str) for key in one) for one in keys.values()):
        raise ValueError(
            f"use_rep={use_rep!r}: expected an obsm key, a tuple of keys that are put side by side, a list of these, or a dict that "
            "names them."
        )
    return keys


def column_scale(x: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Mean and deviation of every column; a constant one gets deviation 1."""
    mean, deviation = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    deviation[deviation <= 1e-7 * np.maximum(1, np.abs(mean))] = 1
    return mean, deviation


def support_scale(support: NDArray[np.floating], scaling: str) -> tuple[Floats, Floats]:
    """What rows are scaled by, as ``(x - mean) / deviation``, once the support is known."""
    return column_scale(support) if scaling == "support" else (np.zeros(support.shape[1]), np.ones(support.shape[1]))


def read_representations(
    sample: Sample, named: Mapping[str, tuple[str, ...]], scaling: str
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Return every representation, over the rows that have all of them, and these rows."""
    blocks = {key: read_features(sample, key) for keys in named.values() for key in keys}
    there = np.logical_and.reduce([~np.isnan(block).any(1) for block in blocks.values()])
    rows = np.flatnonzero(there)
    if scaling == "section":
        of_row = sample.section_of_row()
        for key, block in blocks.items():
            scaled = np.full_like(block, np.nan)
            for name in np.unique(of_row[rows]):
                own = rows[of_row[rows] == name]
                mean, deviation = column_scale(block[own])
                scaled[own] = (block[own] - mean) / deviation
            blocks[key] = scaled
    return {name: np.concatenate([blocks[key][rows] for key in keys], 1) for name, keys in named.items()}, rows


def check_scaling(scaling: str, named: Mapping[str, tuple[str, ...]]) -> None:
    """Raise if features cannot be scaled so."""
    if scaling not in SCALINGS:
        raise ValueError(f"scaling={scaling!r}: expected one of {', '.join(map(repr, SCALINGS))}.")
    if scaling == "none" and (several := [name for name, keys in named.items() if len(keys) > 1]):
        raise ValueError(
            f'scaling="none": {shorten(several)} puts features of different scale side by side. Use "section" or "support".'
        )


def read_rows(
    samples: Samples,
    label_key: str,
    named: Mapping[str, tuple[str, ...]],
    scaling: str,
    groupby: str | None,
    patches_key: str | None,
    table_key: str | None,
) -> Rows:
    """Read all rows that have every representation; ``patches_key`` names the patches if centres are needed."""
    check_scaling(scaling, named)
    parts: dict[str, list[np.ndarray]] = {"label": [], "section": [], "group": [], "points": []}
    x: dict[str, list[NDArray[np.float32]]] = {name: [] for name in named}
    names: list[str] = []
    without = {"a representation": 0, "a label": 0}
    for sample in iter_samples(samples, table_key=table_key):
        found, rows = read_representations(sample, named, scaling)
        for name, block in found.items():
            x[name].append(block)
        label = read_labels(sample, label_key, "label_key")[0].astype(str)[rows]
        parts["label"].append(label)
        parts["section"].append(sample.section_of_row()[rows])
        parts["group"].append(group_labels(sample, groupby)[rows])
        if patches_key is not None:
            parts["points"].append(_points(sample, patches_key)[rows])
        names += [section.name for section in sample.sections]
        without["a representation"] += sample.table.n_obs - len(rows)
        without["a label"] += int((label == "").sum())
    check_names(names, "sections")
    for name, blocks in x.items():
        if len(widths := {block.shape[1] for block in blocks}) > 1:
            raise ValueError(
                f"use_rep: {name!r} differs in width between samples: {sorted(widths)}. Make it alike in all."
            )
    for what, count in without.items():
        if count:
            logger.info("%d rows without %s are not used", count, what)
    label = np.concatenate(parts["label"])
    classes = sorted(set(label.tolist()) - {""})
    if len(classes) < 2:
        raise ValueError(
            f"label_key={label_key!r}: {f'all labelled rows are {classes[0]!r}' if classes else 'no row has a label'}, but it takes two "
            "classes to tell apart."
        )
    return Rows(
        {name: np.concatenate(blocks) for name, blocks in x.items()},
        np.where(label == "", -1, np.searchsorted(classes, label)),
        classes,
        np.concatenate(parts["section"]),
        np.concatenate(parts["group"]),
        np.concatenate(parts["points"]) if patches_key is not None else None,
    )


def _points(sample: Sample, patches_key: str) -> Floats:
    """Centres of all rows in µm."""
    record = patch_record(sample, patches_key)
    points = np.full((sample.table.n_obs, 2), np.nan)
    for section in sample.sections:
        points[section.rows] = section_points(sample, section, record)
    return points


def guard_width(
    samples: Samples, named: Mapping[str, tuple[str, ...]], patches_key: str, table_key: str | None
) -> float:
    """Distance in µm from which two spots see none of the same tissue: the side of a patch, and twice the radius of context features."""
    width = 0.0
    for sample in iter_samples(samples, table_key=table_key):
        records = [_keys.read_provenance(sample.table.uns, key) for keys in named.values() for key in keys]
        radii = [float(one["radius_um"]) for one in records if one.get("function") == "pp.spatial_context"]
        width = max(width, patch_record(sample, patches_key)["size_um"] + 2 * max(radii, default=0.0))
    return width
