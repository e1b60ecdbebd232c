"""Rows with image and measured expression that predictions are made from."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from spatialdata import SpatialData

from spade._checks import check_count, shorten
from spade._samples.counts import read_counts
from spade._samples.features import named_representations, read_representations
from spade._samples.model_features import Model, check_model, features_key
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.patches import sample_points
from spade._samples.sample import Sample, check_names
from spade.core.arrays import Floats
from spade.core.evaluation.folds import section_folds
from spade.core.expression.normalise import log_normalise
from spade.models import GenePanel, SealModel, SpadeModel
from spade.models._gene_names import MATCHING, common_genes
from spade.tl._pairs import check_mix, encode, read_modality

METHODS = ("neighbours", "ridge")
#: The method that needs no reference.
HEAD = "head"
SCALINGS = ("reference", "section")


@dataclass(frozen=True)
class Way:
    """How to predict, checked."""

    method: str
    model: Model | None
    use_rep: Any
    k: int
    temperature: float
    mix: str
    alpha: float | str
    scaling: str
    layer: str | None
    normalized: bool
    patches_key: str

    def __post_init__(self) -> None:
        """Check all that needs no data."""
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r}: expected one of {', '.join(map(repr, METHODS))}.")
        if self.method == "neighbours":
            if self.model is None:
                raise ValueError(
                    'model=None: method="neighbours" searches in the joint space of a model; pass one from sp.tl.train_spade, or '
                    'choose method="ridge".'
                )
            check_model(self.model)
            check_mix(self.mix, self.model)
            check_count("k", self.k)
            if not (np.isfinite(self.temperature) and self.temperature > 0):
                raise ValueError(f"temperature={self.temperature!r}: expected a positive number.")
            if not (self.use_rep is None or isinstance(self.use_rep, str)):
                raise ValueError(f"use_rep={self.use_rep!r}: a model reads one obsm key; name it, or leave it out.")
            return
        if self.model is not None:
            raise ValueError(
                'model=: method="ridge" has no use for a model; leave it out, or name what it embedded in use_rep=.'
            )
        if self.use_rep is None:
            raise ValueError('use_rep=None: method="ridge" needs an obsm key, such as use_rep="X_texture".')
        if len(named_representations(self.use_rep)) > 1:
            raise ValueError(f"use_rep={self.use_rep!r}: expected one obsm key, or a tuple of keys put side by side.")
        if self.alpha != "cv" and (isinstance(self.alpha, str) or not (np.isfinite(self.alpha) and self.alpha > 0)):
            raise ValueError(f'alpha={self.alpha!r}: expected a positive number or "cv".')
        if self.scaling not in SCALINGS:
            raise ValueError(f"scaling={self.scaling!r}: expected one of {', '.join(map(repr, SCALINGS))}.")

    @classmethod
    def of(cls, *, layer: str | None, normalized: bool | None, **rest: Any) -> Way:
        """Fill in what a model knows of its expression."""
        config = rest["model"].config if isinstance(rest["model"], (SealModel, SpadeModel)) else None
        if rest["method"] == "neighbours" and config is not None:
            layer, normalized = layer or config.layer, config.normalized if normalized is None else normalized
        return cls(layer=layer, normalized=bool(normalized), **rest)

    @property
    def keys(self) -> tuple[str, ...]:
        """The ``obsm`` keys that are read."""
        if self.method == "neighbours" and self.model is not None:
            return (features_key(self.model, self.use_rep),)
        return next(iter(named_representations(self.use_rep).values()))

    def read_image(self, sample: Sample) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        """Return the image side of the rows that have one, and these rows."""
        if self.method == "neighbours" and self.model is not None:
            features, there = read_modality(sample, self.model, "image", self.keys[0], self.layer, self.normalized)
            rows = np.flatnonzero(there)
            return encode(self.model, "image", features[rows], self.mix, gallery=False), rows
        scaling = "section" if self.scaling == "section" else "none"
        found, rows = read_representations(sample, named_representations(self.use_rep), scaling)
        return next(iter(found.values())), rows


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
    samples: Samples, way: Way, genes: GenePanel | Sequence[str] | None, table_key: str | None
) -> Reference:
    """Read all rows that have both modalities; ``genes=None``: those that all samples have."""
    listed = as_list(samples)
    panel = _panel(listed, genes, table_key)
    parts: dict[str, list[Any]] = {name: [] for name in ("image", "gallery", "y", "section", "origin", "points")}
    names, sides = [], [0.0]
    left_out = 0
    for sample in iter_samples(listed, table_key=table_key):
        x, rows = way.read_image(sample)
        counts = read_counts(sample, way.layer, way.normalized)
        filled = np.asarray(abs(counts).sum(1)).ravel() > 0
        both = filled[rows]
        left_out += sample.table.n_obs - int(both.sum())
        rows = rows[both]
        values, present = panel.take(counts if way.normalized else log_normalise(counts), sample.table.var_names)
        if not present.all():
            missing = [name for name, there in zip(panel.names, present, strict=True) if not there]
            raise KeyError(
                f"{sample.name}: genes: {shorten(missing)} are not in the table. {MATCHING[panel.fold_case]} Predict genes that every "
                "sample of reference has (genes=None takes all of them)."
            )
        parts["image"].append(x[both])
        parts["y"].append(values[rows])
        if way.method == "neighbours" and way.model is not None:
            g, _ = read_modality(sample, way.model, "expression", "", way.layer, way.normalized)
            parts["gallery"].append(encode(way.model, "expression", g[rows], way.mix, gallery=True))
        origin = np.full(sample.table.n_obs, "", dtype=object)
        for section in sample.sections:
            origin[section.rows] = sample.origin(section)
            names.append(section.name)
        points, side = sample_points(sample, way.patches_key)
        sides.append(side)
        parts["origin"].append(origin[rows].astype(str))
        parts["section"].append(sample.section_of_row()[rows])
        parts["points"].append(points[rows])
    check_names(names, "sections")
    if len(widths := {part.shape[1] for part in parts["image"]}) > 1:
        raise ValueError(f"use_rep={way.use_rep!r} differs in width between samples: {sorted(widths)}. Make it alike.")
    if left_out:
        warnings.warn(
            f"reference: {left_out} spots without image features or counts are not predicted from.", stacklevel=3
        )
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
