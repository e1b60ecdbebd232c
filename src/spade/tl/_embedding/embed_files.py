"""Embeddings of feature files: one new file per slide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from spade._samples.given.features import WEIGHTS
from spade._samples.given.output import FeatureOutput
from spade._samples.model_features import (
    Model,
    features_key,
    read_model_features,
    read_program_features,
    reads_patches,
)
from spade._samples.open import iter_samples
from spade._samples.sample import Sample
from spade.core.checks import check_choice
from spade.core.experts.routing import routing_entropy
from spade.io._cohort.places import Item, feature_path
from spade.io._feature_files import FEATURES, feature_shape
from spade.models import ProgramModel, SealModel, SpadeModel
from spade.tl._embedding.modalities import unit

#: Why settings of tables have no effect on feature files.
OF_TABLES = "feature files have no table, no expression and no patches"
#: Features made of those of a slide, and further arrays to write.
Made = tuple[NDArray[np.floating], Mapping[str, NDArray[Any]]]


def embed_files(samples: Sequence[Item], model: Model, folder: Path, *, mix: str, use_rep: str | None) -> None:
    """Write the L2-normalised image side of every slide."""
    check_choice("mix", mix, ("mean", "concat"))
    if mix != "mean" and not isinstance(model, SpadeModel):
        raise ValueError(f"mix={mix!r}: a SealModel has no experts to mix; leave mix= out.")
    if reads_patches(model):
        raise ValueError(
            "model: a tuned encoder reads pixels, but feature files hold what another encoder made of them. Lay "
            "their patches on the slides with sp.io.from_trident(slide, file)."
        )
    if use_rep not in (None, FEATURES, model.config.use_rep):
        raise ValueError(f"use_rep={use_rep!r}: a feature file holds one representation; leave use_rep= out.")

    def make(sample: Sample) -> Made:
        key = FEATURES if not model.config.use_rep else features_key(model, None)
        features = read_model_features(sample, key, model)
        if isinstance(model, SealModel):
            return unit(model.encode_image(features)), {}
        weights = model.route(features)
        scores = {"entropy": routing_entropy(weights), "distance": model.routing.nearest_distance(features)}
        further = {name: np.asarray(values, np.float32) for name, values in {WEIGHTS: weights, **scores}.items()}
        return unit(model.encode_image(features, weights=weights, mix=mix)), further

    facts = {"mix": mix if isinstance(model, SpadeModel) else None, "seed": model.config.seed}
    _write_all(samples, model, folder, make, facts, model.n_features)


def embed_program_files(samples: Sequence[Item], model: ProgramModel, folder: Path) -> None:
    """Write the predicted clusters and programs of every slide."""

    def make(sample: Sample) -> Made:
        return model.encode_image(read_program_features(sample, model), sample.section_of_row()), {}

    _write_all(samples, model, folder, make, {"seed": model.config.seed}, sum(model.config.widths))


def _write_all(
    samples: Sequence[Item],
    model: Model | ProgramModel,
    folder: Path,
    make: Callable[[Sample], Made],
    facts: Mapping[str, object],
    n_features: int,
) -> None:
    """Write one file per slide, one slide in memory at a time."""
    record = {"function": "tl.embed", "model": type(model).__name__, "model_id": model.id}
    output = FeatureOutput(folder, {**record, "encoder": model.config.encoder, **facts})
    pending = output.pending(samples)
    for item in pending:  # the first is not written unless all fit
        path = feature_path(item)
        if (width := feature_shape(path)[1]) != n_features:
            raise ValueError(
                f"{path.stem}: {str(path)!r} has {width} features, but the model reads {n_features} of encoder "
                f"{model.config.encoder!r}. Encode the slide with that encoder."
            )
    for sample in tqdm(iter_samples(pending) if pending else (), total=len(pending), desc="embedding", unit="slide"):
        output.write(sample, *make(sample))
