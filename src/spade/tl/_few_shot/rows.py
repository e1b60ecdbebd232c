"""Labelled rows of many samples, and their representations."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spade import _keys
from spade._samples.features import check_scaling, read_representations
from spade._samples.obs import group_labels, read_labels
from spade._samples.open import Samples, iter_samples
from spade._samples.patches import patch_record, row_centres
from spade._samples.sample import check_names
from spade.core.arrays import Floats

logger = logging.getLogger("spade")


@dataclass
class LabelledRows:
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


def read_rows(
    samples: Samples,
    label_key: str,
    named: Mapping[str, tuple[str, ...]],
    scaling: str,
    groupby: str | None,
    patches_key: str | None,
    table_key: str | None,
) -> LabelledRows:
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
            parts["points"].append(row_centres(sample, patches_key, required=True)[0][rows])
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
    return LabelledRows(
        {name: np.concatenate(blocks) for name, blocks in x.items()},
        np.where(label == "", -1, np.searchsorted(classes, label)),
        classes,
        np.concatenate(parts["section"]),
        np.concatenate(parts["group"]),
        np.concatenate(parts["points"]) if patches_key is not None else None,
    )


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
