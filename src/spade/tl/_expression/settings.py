"""Settings of a prediction of expression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spade._samples.features import Representation, key_in, named_representations, read_representations
from spade._samples.model_features import Model, check_model, features_key
from spade._samples.sample import Sample
from spade.core.arrays import Rows
from spade.core.checks import brief, check_choice, check_count, check_flag, check_positive
from spade.models import SealModel, SpadeModel
from spade.tl._embedding.modalities import Source, check_mix, encode, read_modality

METHODS = ("neighbours", "ridge")
#: The method that needs no reference.
HEAD = "head"
SCALINGS = ("reference", "section")


@dataclass(frozen=True)
class PredictionSettings:
    """Settings of :func:`spade.tl.predict_expression` with a reference, checked."""

    method: str
    model: Model | None
    use_rep: Representation | None
    k: int
    temperature: float
    mix: str
    alpha: float | str
    scaling: str
    layer: str | None
    normalized: bool
    patches_key: str

    def __post_init__(self) -> None:
        """Check everything that needs no data."""
        if self.method == "neighbours":
            self._check_neighbours()
        else:
            self._check_ridge()

    def _check_neighbours(self) -> None:
        if self.model is None:
            raise ValueError(
                'model=None: method="neighbours" searches in the joint space of a model; pass one from '
                'sp.tl.train_spade, or choose method="ridge".'
            )
        check_model(self.model)
        check_mix(self.mix, self.model)
        check_count("k", self.k)
        check_positive("temperature", self.temperature)
        if not (self.use_rep is None or isinstance(self.use_rep, str)):
            raise ValueError(f"use_rep={brief(self.use_rep)}: a model reads one obsm key; name it, or leave it out.")

    def _check_ridge(self) -> None:
        if self.model is not None:
            raise ValueError(
                'model=: method="ridge" uses no model; leave it out, and name features or embeddings with use_rep=.'
            )
        if self.use_rep is None:
            raise ValueError('use_rep=None: method="ridge" needs an obsm key, such as use_rep="X_texture".')
        if len(named_representations(self.use_rep)) > 1:
            raise ValueError(f"use_rep={brief(self.use_rep)}: expected one obsm key, or a tuple of keys.")
        if isinstance(self.alpha, str):
            if self.alpha != "cv":
                raise ValueError(f'alpha={brief(self.alpha)}: expected a positive number or "cv".')
        else:
            check_positive("alpha", self.alpha)
        check_choice("scaling", self.scaling, SCALINGS)

    @classmethod
    def of(cls, *, layer: str | None, normalized: bool | None, **settings: Any) -> PredictionSettings:
        """Fill in where the expression is, as the model knows it from its training."""
        if normalized is not None:
            check_flag("normalized", normalized)
        check_choice("method", settings["method"], METHODS)
        model = settings["model"]
        if settings["method"] == "neighbours" and isinstance(model, (SealModel, SpadeModel)):
            layer = model.config.layer if layer is None else layer
            normalized = model.config.normalized if normalized is None else normalized
        return cls(layer=layer, normalized=bool(normalized), **settings)

    @property
    def searched_model(self) -> Model | None:
        """The model in whose joint space neighbours are searched; None for ridge regression."""
        return self.model if self.method == "neighbours" else None

    @property
    def keys(self) -> tuple[str, ...]:
        """The ``obsm`` keys that are read."""
        if self.searched_model is not None and (self.use_rep is None or isinstance(self.use_rep, str)):
            return (features_key(self.searched_model, self.use_rep),)
        return next(iter(named_representations(self.use_rep).values()))

    def keys_in(self, sample: Sample) -> tuple[str, ...]:
        """The keys under which a sample has these; a feature file has one representation for any one key."""
        return (key_in(sample, self.keys[0]),) if len(self.keys) == 1 else self.keys

    @property
    def source(self) -> Source:
        """Where both modalities of the model are read."""
        return Source(self.keys[0], self.layer, self.normalized)

    def read_image(self, sample: Sample) -> tuple[NDArray[np.floating], Rows]:
        """Return features (ridge) or image embeddings (neighbours) of the rows that have an image, and these rows."""
        if self.searched_model is not None:
            features, valid = read_modality(sample, self.searched_model, "image", self.source)
            rows = np.flatnonzero(valid)
            return encode(self.searched_model, "image", features[rows], self.mix, gallery=False), rows
        scaling = "section" if self.scaling == "section" else "none"
        features_by_name, rows = read_representations(sample, {"": self.keys_in(sample)}, scaling)
        return next(iter(features_by_name.values())), rows
