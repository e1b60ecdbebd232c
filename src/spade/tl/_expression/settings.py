"""Settings of a prediction of expression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spade._samples.features import named_representations, read_representations
from spade._samples.model_features import Model, check_model, features_key
from spade._samples.sample import Sample
from spade.core.checks import check_count
from spade.models import SealModel, SpadeModel
from spade.tl._embedding.modalities import check_mix, encode, read_modality

METHODS = ("neighbours", "ridge")
#: The method that needs no reference.
HEAD = "head"
SCALINGS = ("reference", "section")


@dataclass(frozen=True)
class PredictionSettings:
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
    def of(cls, *, layer: str | None, normalized: bool | None, **rest: Any) -> PredictionSettings:
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
