"""Slides with one label each, and heads that learn it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade._samples.features import named_representations
from spade.core.arrays import Floats
from spade.tl._slides.bags import Bags, BagSource, read_bags

logger = logging.getLogger("spade")
Ints = NDArray[np.int64]
#: From the number of a slide to the probabilities of its classes and the attention of its patches.
Read = Callable[[int], tuple[Floats, Floats]]


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
        Patient of every slide; the slide itself where none is asked for.
    """

    bags: Bags
    y: Ints
    classes: list[str]
    group: NDArray[np.object_]

    @property
    def labelled(self) -> Ints:
        """Numbers of the slides with a label."""
        return np.flatnonzero(self.y >= 0)


def read_slides(
    bags: BagSource,
    use_rep: object,
    columns: Mapping[str, str | None],
    labels: pd.DataFrame | None,
    slide_key: str | None,
    table_key: str | None,
    optional: Sequence[str] = (),
) -> Slides:
    """Describe slides, their classes and patients; ``columns`` has ``label_key`` and ``groupby``."""
    named = None if use_rep is None else named_representations(use_rep)
    found = read_bags(
        bags,
        named=named,
        columns=columns,
        labels=labels,
        slide_key=slide_key,
        table_key=table_key,
        optional=optional,
    )
    label = found.facts["label_key"]
    classes = sorted(set(label.tolist()) - {""})
    if len(classes) < 2:
        raise ValueError(
            f"label_key={columns['label_key']!r}: {f'all slides with a label are {classes[0]!r}' if classes else 'no slide has a label'}, "
            "but it takes two classes to tell apart."
        )
    known = label != ""
    if not known.all():
        logger.info("%d of %d slides have no label and teach nothing", int((~known).sum()), len(known))
    group = found.facts.get("groupby", np.array(found.names, dtype=object))
    lacking = [name for name, of, own in zip(found.names, group, known, strict=True) if own and not of]
    if lacking:
        raise ValueError(f"groupby={columns['groupby']!r} is missing for {len(lacking)} slides, {lacking[0]!r} first.")
    return Slides(found, np.where(known, np.searchsorted(classes, label), -1), classes, group)
