"""Rows with image and measured expression that predictions are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from spatialdata import SpatialData

from spade._checks import shorten
from spade._samples.counts import read_counts
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.patches import row_centres
from spade._samples.sample import check_names
from spade.core.arrays import Floats
from spade.core.errors import warn
from spade.core.evaluation.folds import section_folds
from spade.core.expression.normalise import log_normalise
from spade.models import GenePanel
from spade.models._gene_names import MATCHING, common_genes
from spade.tl._embedding.modalities import encode, read_modality
from spade.tl._expression.settings import PredictionSettings


@dataclass(frozen=True)
class Reference:
    """Rows that have an image and counts, of all samples together.

    Attributes
    ----------
    image
        ``(n, d)``: features (ridge), or image embeddings (neighbours).
    gallery
        Expression embeddings (neighbours), else empty.
    y
        Log-normalised expression ``(n, G)``.
    genes
        Names of its columns.
    fold_case
        Whether these are looked up in upper case, as in :class:`spade.models.GenePanel`.
    section, origin
        Name and origin of every row's section.
    points
        ``(n, 2)`` centres in µm; NaN where there are no patches.
    guard
        Side of a patch in µm.
    """

    image: NDArray[np.floating]
    gallery: NDArray[np.float32]
    y: csr_matrix
    genes: list[str]
    section: NDArray[np.str_]
    origin: NDArray[np.str_]
    points: Floats
    guard: float
    fold_case: bool = False

    def folds(self, rows: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Training and held-out rows by section, of a single one by halves; empty if it has no patches."""
        points = self.points[rows]
        known = None if np.isnan(points).any() else points
        return [(rows[train], rows[test]) for train, test in section_folds(self.origin[rows], known, self.guard)]


def read_reference(
    samples: Samples, settings: PredictionSettings, genes: GenePanel | Sequence[str] | None, table_key: str | None
) -> Reference:
    """Read all rows that have both modalities; ``genes=None``: those that all samples have."""
    listed = as_list(samples)
    panel = _panel(listed, genes, table_key)
    parts: dict[str, list[Any]] = {name: [] for name in ("image", "gallery", "y", "section", "origin", "points")}
    names, sides = [], [0.0]
    left_out = 0
    for sample in iter_samples(listed, table_key=table_key):
        x, rows = settings.read_image(sample)
        counts = read_counts(sample, settings.layer, normalized=settings.normalized)
        filled = np.asarray(abs(counts).sum(1)).ravel() > 0
        both = filled[rows]
        left_out += sample.table.n_obs - int(both.sum())
        rows = rows[both]
        values, present = panel.take(counts if settings.normalized else log_normalise(counts), sample.table.var_names)
        if not present.all():
            missing = [name for name, there in zip(panel.names, present, strict=True) if not there]
            raise KeyError(
                f"{sample.name}: genes: {shorten(missing)} are not in the table. {MATCHING[panel.fold_case]} Predict genes that every "
                "sample of reference has (genes=None takes all of them)."
            )
        parts["image"].append(x[both])
        parts["y"].append(values[rows])
        if settings.method == "neighbours" and settings.model is not None:
            g, _ = read_modality(sample, settings.model, "expression", "", settings.layer, settings.normalized)
            parts["gallery"].append(encode(settings.model, "expression", g[rows], settings.mix, gallery=True))
        origin = np.full(sample.table.n_obs, "", dtype=object)
        for section in sample.sections:
            origin[section.rows] = sample.origin(section)
            names.append(section.name)
        points, side = row_centres(sample, settings.patches_key, required=False)
        sides.append(side)
        parts["origin"].append(origin[rows].astype(str))
        parts["section"].append(sample.section_of_row()[rows])
        parts["points"].append(points[rows])
    check_names(names, "sections")
    if len(widths := {part.shape[1] for part in parts["image"]}) > 1:
        raise ValueError(
            f"use_rep={settings.use_rep!r} differs in width between samples: {sorted(widths)}. Make it alike."
        )
    if left_out:
        warn(f"reference: {left_out} spots without image features or counts are not predicted from.")
    y = csr_matrix(vstack(parts["y"], format="csr"))
    if not y.shape[0]:
        raise ValueError("reference: no spot has both image features and counts.")
    gallery = np.concatenate(parts["gallery"]) if parts["gallery"] else np.empty((0, 0), dtype=np.float32)
    joined = {key: np.concatenate(parts[key]) for key in ("image", "section", "origin", "points")}
    return Reference(
        gallery=gallery, y=y, genes=list(panel.names), guard=max(sides), fold_case=panel.fold_case, **joined
    )


def _panel(
    samples: Sequence[SpatialData | Path], genes: GenePanel | Sequence[str] | None, table_key: str | None
) -> GenePanel:
    if genes is not None:
        return GenePanel.of(genes)
    names = {}
    for i, sample in enumerate(iter_samples(samples, table_key=table_key)):
        if not sample.has_expression:
            raise ValueError(f"{sample.name}: has no expression (table of width 0); leave it out of reference=.")
        names[f"{sample.name}" if sample.name not in names else f"{sample.name} ({i})"] = sample.table.var_names
    common = common_genes(names, "Predict them apart, or rename the genes.")
    if not common:
        raise ValueError("reference: no gene is in all samples; predict them apart, or rename the genes.")
    first = next(iter(names.values()))
    return GenePanel(tuple(name for name in first if name in common))
