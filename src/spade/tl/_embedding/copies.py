"""Sections of objects that are copies or parts of one another, told by what their spots hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from spade import _keys
from spade._samples.sample import Sample, Section
from spade.core.arrays import Floats
from spade.core.checks import check_text
from spade.io._files.matrices import to_csr, to_dense
from spade.models import GenePanel
from spade.tl._embedding.modalities import Source

#: Share by which two sums of the same numbers may differ.
ROUNDING = 1e-9


@dataclass(frozen=True)
class SectionMarks:
    """One section, and a number per spot for its expression and for its features: equal rows have equal numbers.

    A number is NaN where there is nothing to compare.
    """

    origin: str
    sample: str
    region: str
    ids: pd.Index
    expression: Floats
    features: Floats

    def is_named(self, sample: Sample, section: Section) -> bool:
        """Whether a section has this sample name and region."""
        return (self.sample, self.region) == (recorded_name(sample), section.region)

    def is_copy(self, other: SectionMarks) -> bool:
        """Whether the spots that both sections have hold the same expression, or the same features."""
        mine, theirs = self.ids.get_indexer(other.ids), np.arange(len(other.ids))
        mine, theirs = mine[mine >= 0], theirs[mine >= 0]
        pairs = ((self.expression, other.expression), (self.features, other.features))
        return any(_all_equal(one[mine], another[theirs]) for one, another in pairs)


def section_marks(
    sample: Sample, source: Source, panel: GenePanel | None, only: Sequence[Section] | None = None
) -> list[SectionMarks]:
    """Mark the spots of sections of a sample (None: all) by the genes of a panel, and the features that are read."""
    table = sample.table
    layer = None if source.layer is None else check_text("layer", source.layer)
    matrix = table.layers[layer] if layer in table.layers else table.X
    expression = features = np.full(table.n_obs, np.nan)
    if table.n_vars and matrix is not None:
        names = list(table.var_names) if panel is None else panel.fold(table.var_names)
        weights = _weights(names)
        if panel is not None:  # a copy may have been reduced to the genes of the model
            weights = np.where(np.isin(names, panel.names), weights, 0.0)
        expression = to_csr(matrix, f"{sample.name}: expression").astype(np.float64) @ weights
    if source.use_rep in table.obsm:
        values = to_dense(table.obsm[source.use_rep], f"{sample.name}: obsm[{source.use_rep!r}]")
        features = values.astype(np.float64) @ _weights(range(values.shape[1]))
    return [
        SectionMarks(
            sample.origin(section),
            recorded_name(sample),
            section.region,
            section.ids.astype(str),
            expression[section.rows],
            features[section.rows],
        )
        for section in (sample.sections if only is None else only)
    ]


def origins_of_copies(
    queries: Sequence[SectionMarks], sample: Sample, source: Source, panel: GenePanel | None
) -> dict[str, str]:
    """Return the origin, in a sample of the gallery, of every query's section of which it holds a copy or a part.

    These are sections of the same sample name and region of which both have some spots, and all of these hold the same
    values: two sections of tissue never do, whatever they are called.
    """
    candidates = {}
    for section in sample.sections:
        like = [q for q in queries if q.is_named(sample, section)]
        if like := [q for q in like if q.origin != sample.origin(section)]:
            candidates[section.region] = (section, like)
    if not candidates:
        return {}
    marked = section_marks(sample, source, panel, [section for section, _ in candidates.values()])
    return {q.origin: marks.origin for marks in marked for q in candidates[marks.region][1] if q.is_copy(marks)}


def recorded_name(sample: Sample) -> str:
    """Return the name that is recorded in the object of a sample, else the one that it has in this call."""
    return str(sample.sdata.attrs.get(_keys.UNS, {}).get("sample") or sample.name)


def _weights(names: Sequence[Any] | range) -> Floats:
    """Return a number between 0 and 1 for every name, the same in every call."""
    hashed = pd.util.hash_array(np.array([str(name) for name in names], dtype=object))
    return np.asarray(hashed / 2.0**64)


def _all_equal(one: Floats, another: Floats) -> bool:
    """Whether all numbers agree that can be compared, of which there must be some; rows of zeros say nothing."""
    known = ~(np.isnan(one) | np.isnan(another)) & ((one != 0) | (another != 0))
    return bool(known.any() and np.allclose(one[known], another[known], rtol=ROUNDING, atol=0.0))
