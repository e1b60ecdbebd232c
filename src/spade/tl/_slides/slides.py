"""Slides with one label each, and the patients they come from."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade._checks import check_classes, plural, shorten
from spade._samples.features import named_representations
from spade.core.arrays import Rows
from spade.tl._slides.bags import Bags, BagSource, read_bags

logger = logging.getLogger("spade")


@dataclass(frozen=True)
class Slides:
    """Bags with labels.

    Attributes
    ----------
    bags
        All slides.
    y
        Class number of every slide; -1: no label.
    classes
        Names of the classes.
    group
        Patient of every slide; the slide itself if no patients were asked for.
    """

    bags: Bags
    y: Rows
    classes: list[str]
    group: NDArray[np.object_]

    @property
    def labelled(self) -> Rows:
        """Numbers of the slides with a label."""
        return np.flatnonzero(self.y >= 0)

    def group_numbers(self, slides: Rows) -> Rows:
        """Return a number per patient for some slides, ``(len(slides),)``."""
        return np.unique(self.group[slides].astype(str), return_inverse=True)[1]


def read_slides(
    bags: BagSource,
    use_rep: object,
    *,
    columns: Mapping[str, str | None],
    labels: pd.DataFrame | None,
    slide_key: str | None,
    table_key: str | None,
    optional: Collection[str] = (),
) -> Slides:
    """Describe slides, their classes and patients; ``columns`` has ``label_key`` and ``groupby``."""
    read = read_bags(
        bags,
        named=None if use_rep is None else named_representations(use_rep),
        columns=columns,
        labels=labels,
        slide_key=slide_key,
        table_key=table_key,
        optional=optional,
    )
    label = read.facts["label_key"]
    classes = check_classes(label, str(columns["label_key"]))
    labelled = label != ""
    if not labelled.all():
        logger.info("%d of %d slides have no label and are not trained on", int((~labelled).sum()), len(labelled))
    names = np.array(read.names, dtype=object)
    group = read.facts.get("groupby", names)
    without_group = names[labelled & (group == "")]
    if len(without_group):
        raise ValueError(
            f"groupby={columns['groupby']!r} is missing for {plural(len(without_group), 'slide')} with a label, such "
            f"as {shorten(without_group, 3)}. Fill it in, or pass groupby=None if every slide is of another patient."
        )
    return Slides(read, np.where(labelled, np.searchsorted(classes, label), -1), classes, group)
