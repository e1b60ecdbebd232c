"""Rows with image and measured expression that predictions are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade._checks import shorten
from spade._samples.collect import Collector
from spade._samples.counts import has_counts, read_counts
from spade._samples.given.origins import Origins
from spade._samples.open import Item, Samples, as_list, iter_samples
from spade._samples.patches import row_centres
from spade._samples.sample import Sample
from spade.core.arrays import Floats, Rows
from spade.core.evaluation.folds import section_folds
from spade.core.files import digest
from spade.models import GenePanel
from spade.models._gene_names import MATCHING, common_genes
from spade.tl._embedding.copies import SectionMarks, section_marks
from spade.tl._embedding.modalities import encode, read_modality
from spade.tl._expression.settings import PredictionSettings


@dataclass(frozen=True)
class Reference:
    """Rows of all samples that have an image and counts.

    Attributes
    ----------
    image
        ``(n, d)``: features (ridge), or image embeddings (neighbours).
    gallery
        Expression embeddings ``(n, d)`` (neighbours), else of width 0.
    y
        Log-normalised expression ``(n, G)``.
    panel
        Genes of its columns, and their scale.
    section, origin
        Name and origin of every row's section.
    points
        ``(n, 2)`` centres in µm; NaN where there are no patches.
    patch
        Side of a patch in µm.
    origins
        Origins of the features.
    marks
        What tells copies of its sections.
    """

    image: NDArray[np.floating]
    gallery: NDArray[np.float32]
    y: csr_matrix
    panel: GenePanel
    section: NDArray[np.str_]
    origin: NDArray[np.str_]
    points: Floats
    patch: float
    origins: Origins
    marks: list[SectionMarks]

    @property
    def id(self) -> str:
        """What tells these rows, with their features and values, from others."""
        y = self.y
        return digest("\n".join(self.section.tolist()), self.image, self.gallery, y.indptr, y.indices, y.data)

    def folds(self, rows: Rows) -> list[tuple[Rows, Rows]]:
        """Training and held-out rows: one fold per section, or halves of a single one; empty if it has no patches.

        Sections are held out in the order of their names: origins hold addresses, which differ from run to run.
        """
        points = self.points[rows]
        known = None if np.isnan(points).any() else points
        return [(rows[train], rows[test]) for train, test in section_folds(self.section[rows], known, self.patch)]


def read_reference(
    samples: Samples, settings: PredictionSettings, genes: GenePanel | Sequence[str] | None, table_key: str | None
) -> Reference:
    """Read all rows that have both modalities; ``genes=None``: those that all samples have."""
    listed = as_list(samples, "reference")
    panel = _panel(listed, genes, table_key)
    collector = Collector("the reference")
    features_name = " + ".join(settings.keys)
    patch, marks = 0.0, []
    for sample in iter_samples(listed, table_key=table_key):
        image, rows = settings.read_image(sample)
        counts = read_counts(sample, settings.layer, normalized=settings.normalized)
        usable = has_counts(counts)[rows]
        collector.skip("without image features or counts", sample.table.n_obs - int(usable.sum()))
        rows = rows[usable]
        points, side = row_centres(sample, settings.patches_key, required=False)
        patch = max(patch, side)
        marks += section_marks(sample, settings.source, panel)
        collector.add(
            sample,
            rows,
            {features_name: image[usable]},
            gallery=_gallery(sample, settings, rows),
            y=_expression(sample, counts, panel, settings)[rows],
            origin=sample.origin_of_row()[rows],
            points=points[rows],
        )
    features, columns = collector.joined()
    if not columns["y"].shape[0]:
        raise ValueError("reference: no spot has both image features and counts.")
    return Reference(
        features[features_name], panel=panel, patch=patch, origins=collector.origins, marks=marks, **columns
    )


def _gallery(sample: Sample, settings: PredictionSettings, rows: Rows) -> NDArray[np.float32]:
    """Embed the expression of some rows as a gallery; of width 0 for ridge regression."""
    model = settings.searched_model
    if model is None:
        return np.empty((len(rows), 0), dtype=np.float32)
    expression, _ = read_modality(sample, model, "expression", settings.source)
    return encode(model, "expression", expression[rows], settings.mix, gallery=True)


def _expression(sample: Sample, counts: csr_matrix, panel: GenePanel, settings: PredictionSettings) -> csr_matrix:
    """Return log-normalised expression of all rows in panel order, or raise with the genes that are missing."""
    values, present = panel.take(counts if settings.normalized else panel.normalise(counts), sample.table.var_names)
    if not present.all():
        missing = [name for name, is_present in zip(panel.names, present, strict=True) if not is_present]
        raise KeyError(
            f"{sample.name}: genes: {shorten(missing)} are not in the table. {MATCHING[panel.fold_case]} Predict genes "
            "that every sample of reference has (genes=None takes all of them)."
        )
    return csr_matrix(values)


def _panel(samples: Sequence[Item], genes: GenePanel | Sequence[str] | None, table_key: str | None) -> GenePanel:
    """Return the genes given, or those that all samples have, in the order of the first."""
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
