"""Both modalities of spots, each embedded on its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade._checks import shorten
from spade._samples.counts import read_expression
from spade._samples.model_features import Model, features_key, read_model_features
from spade._samples.sample import Sample
from spade.core.checks import check_choice, check_flag
from spade.models import SealModel

MIXES = ("concat", "logits", "mean")
MODALITIES = ("image", "expression")


@dataclass(frozen=True)
class Source:
    """Where both modalities of a model are read: features in ``obsm``, expression in a layer."""

    use_rep: str
    layer: str | None
    normalized: bool

    @classmethod
    def of(
        cls, model: Model, use_rep: str | None, layer: str | None, *, normalized: bool | None, with_image: bool = True
    ) -> Source:
        """Fill in what the model was trained on where a setting is None; without the image no features are named."""
        config = model.config
        known = config.normalized if normalized is None else check_flag("normalized", normalized)
        return cls(features_key(model, use_rep) if with_image else "", config.layer if layer is None else layer, known)


def check_mix(mix: str, model: Model) -> None:
    """Raise if experts cannot be compared in this way, or if there are none."""
    check_choice("mix", mix, MIXES)
    if isinstance(model, SealModel) and mix != MIXES[0]:
        raise ValueError(f"mix={mix!r}: a SealModel has no experts to mix; leave mix= out.")


def unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows of length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def read_modality(
    sample: Sample, model: Model, modality: str, source: Source
) -> tuple[NDArray[np.floating] | csr_matrix, NDArray[np.bool_]]:
    """Return one modality of every row, and which rows have it."""
    if modality == "image":
        features = read_model_features(sample, source.use_rep, model)
        return features, ~np.isnan(features).any(1)
    if model.genes is None:
        raise ValueError("the model does not know its gene panel, so expression cannot be ordered for its input.")
    if not sample.has_expression:
        raise ValueError(f"{sample.name}: has no expression (table of width 0); leave it out.")
    x, present, filled = read_expression(sample, model.genes, source.layer, normalized=source.normalized)
    if not present.all():
        absent = [name for name, there in zip(model.genes.names, present, strict=True) if not there]
        raise ValueError(
            f"{sample.name}: lacks {len(absent)} of the model's {len(model.genes)} genes: {shorten(absent, 3)}. "
            "Leave it out, or train on a panel that all samples have (sp.pp.select_genes of all of them)."
        )
    return x, filled


def encode(
    model: Model, modality: str, x: NDArray[np.floating] | csr_matrix, mix: str, *, gallery: bool
) -> NDArray[np.float32]:
    """Embed rows so that products of a query's and a gallery's rows are their similarity; each side is routed alone.

    ``"mean"``, ``"concat"`` and models without experts: cosines. ``"logits"``: the cosines of every expert, weighted by
    the routing weights of the query.
    """
    if isinstance(model, SealModel):
        return unit(model.encode_image(x) if modality == "image" else model.encode_expression(x))
    call = model.encode_image if modality == "image" else model.encode_expression
    if mix == "logits":
        return call(x, np.ones((x.shape[0], model.n_experts)) if gallery else None, mix=mix)
    return unit(call(x, mix=mix))


def encode_signature(model: Model, x: NDArray[np.floating]) -> NDArray[np.float32]:
    """Embed the mean expression with and without a change ``(1, G)``; return the difference, experts concatenated."""
    both = np.concatenate([np.maximum(model.expression_mean + x, 0), np.atleast_2d(model.expression_mean)])
    changed, mean = encode(model, "expression", csr_matrix(both), "logits", gallery=True)
    return (changed - mean)[None]
