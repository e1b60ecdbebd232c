"""Labelled rows of many samples, and their representations."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spade import _keys
from spade._checks import check_classes
from spade._samples.collect import Collector
from spade._samples.features import beside, block_widths, check_scaling, read_blocks, warn_of_expression
from spade._samples.given.origins import Origins
from spade._samples.obs import group_labels, read_labels
from spade._samples.open import Samples, iter_samples
from spade._samples.patches import row_centres
from spade.core.arrays import Floats, Rows
from spade.core.spots.blocks import guard_band

logger = logging.getLogger("spade")


@dataclass
class LabelledRows:
    """Rows of all samples that have every representation, with or without a label.

    Attributes
    ----------
    x
        One array ``(n, d)`` per representation.
    widths
        Columns of every block of a representation.
    y
        Class number; -1: no label.
    classes
        Names of the classes.
    section, group, spot
        Names per row.
    points
        ``(n, 2)`` centres in µm within the section; None if not asked for.
    origins
        Origins of the blocks.
    """

    x: dict[str, NDArray[np.float32]]
    widths: dict[str, list[int]]
    y: Rows
    classes: list[str]
    section: NDArray[np.str_]
    group: NDArray[np.str_]
    spot: NDArray[np.str_]
    points: Floats | None
    origins: Origins

    @property
    def labelled(self) -> Rows:
        """Numbers of the rows that have a label."""
        return np.flatnonzero(self.y >= 0)


def read_rows(
    samples: Samples,
    label_key: str,
    named: Mapping[str, tuple[str, ...]],
    *,
    scaling: str,
    weights: Mapping[str, float],
    purpose: str,
    scores: str | None = None,
    groupby: str | None = None,
    patches_key: str | None = None,
    table_key: str | None = None,
) -> LabelledRows:
    """Read all rows that have every representation; ``patches_key`` names the patches if centres are needed.

    ``purpose`` says in the log what spots without a label or a representation are left out of. ``scores`` names what is
    measured, for a warning if measured expression is among the features.
    """
    check_scaling(scaling)
    collector = Collector(purpose, say=logger.info)
    for number, sample in enumerate(iter_samples(samples, table_key=table_key)):
        features, rows = read_blocks(sample, named, scaling, weights)
        if scores is not None and not number:
            warn_of_expression(sample, named, scores)
        columns = {
            "label": read_labels(sample, label_key, "label_key")[0].astype(str)[rows],
            "group": group_labels(sample, groupby)[rows],
            "spot": sample.table.obs_names.to_numpy().astype(str)[rows],
        }
        if patches_key is not None:
            columns["points"] = row_centres(sample, patches_key, required=True)[0][rows]
        collector.add(sample, rows, features, **columns)
        collector.skip("without a representation", sample.table.n_obs - len(rows))
        collector.skip("without a label", int((columns["label"] == "").sum()))
    blocks, joined = collector.joined()
    widths = block_widths(named, blocks)
    label = joined["label"]
    classes = check_classes(label, label_key)
    y = np.where(label == "", -1, np.searchsorted(classes, label))
    return LabelledRows(
        beside(named, blocks),
        widths,
        y,
        classes,
        joined["section"],
        joined["group"],
        joined["spot"],
        joined.get("points"),
        collector.origins,
    )


def guard_width(
    samples: Samples, named: Mapping[str, tuple[str, ...]], patches_key: str, table_key: str | None
) -> float:
    """Distance in µm from which spots share no tissue and are no neighbours, the largest of all sections.

    It is the guard band around squares with the side of a patch plus twice the radius of the context; only
    features of :func:`spade.pp.spatial_context` have a context.
    """
    width = 0.0
    for sample in iter_samples(samples, table_key=table_key):
        records = [_keys.read_provenance(sample.table.uns, key) for keys in named.values() for key in keys]
        radii = [float(facts["radius_um"]) for facts in records if facts.get("function") == "pp.spatial_context"]
        points, side = row_centres(sample, patches_key, required=True)
        reach = side + 2 * max(radii, default=0.0)
        width = max([width, *(guard_band(points[section.rows], reach) for section in sample.sections)])
    return width
