"""Both modalities of spots, each embedded by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade._samples.counts import read_expression
from spade._samples.model_features import Model, read_model_features
from spade._samples.sample import Sample
from spade.models import SealModel

MIXES = ("concat", "logits", "mean")
MODALITIES = ("image", "expression")


def check_mix(mix: str, model: Model) -> None:
    """Raise if experts cannot be compared so, or if there are none."""
    if mix not in MIXES:
        raise ValueError(f"mix={mix!r}: expected one of {', '.join(map(repr, MIXES))}.")
    if isinstance(model, SealModel) and mix != MIXES[0]:
        raise ValueError(f"mix={mix!r}: a SealModel has no experts to mix; leave mix= out.")


def unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows of length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def read_modality(
    sample: Sample, model: Model, modality: str, use_rep: str, layer: str | None, normalized: bool
) -> tuple[Any, NDArray[np.bool_]]:
    """Return one modality of every row, and which rows have it."""
    if modality == "image":
        features = read_model_features(sample, use_rep, model)
        return features, ~np.isnan(features).any(1)
    if model.genes is None:
        raise ValueError("the model does not know its gene panel, so expression cannot be put in its order.")
    if not sample.has_expression:
        raise ValueError(f"{sample.name}: has no expression (table of width 0), so nothing can be found; leave it out.")
    x, present, filled = read_expression(sample, model.genes, layer, normalized=normalized)
    if not present.all():
        raise ValueError(f"{sample.name}: lacks {int((~present).sum())} of the model's {len(model.genes)} genes.")
    return x, filled


def encode(model: Model, modality: str, x: Any, mix: str, *, gallery: bool) -> NDArray[np.float32]:
    """Embed rows so that products of a query's and a gallery's rows are their similarity, each routed by itself.

    ``"mean"``, ``"concat"``: cosines. ``"logits"``: the query's weights times the cosines of every expert. Without experts: cosines.
    """
    if isinstance(model, SealModel):
        return unit(model.encode_image(x) if modality == "image" else model.encode_expression(x))
    call = model.encode_image if modality == "image" else model.encode_expression
    if mix == "logits":
        return call(x, np.ones((x.shape[0], model.n_experts)) if gallery else None, mix=mix)
    return unit(call(x, mix=mix))


def encode_signature(model: Model, x: NDArray[np.floating]) -> NDArray[np.float32]:
    """Embed the mean expression and the mean with a change ``(1, G)``; what each expert sees of the change, side by side."""
    both = np.concatenate([np.maximum(model.expression_mean + x, 0), np.atleast_2d(model.expression_mean)])
    changed, mean = encode(model, "expression", csr_matrix(both), "logits", gallery=True)
    return (changed - mean)[None]
