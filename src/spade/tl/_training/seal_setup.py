"""What a fine-tuning begins with: checked arguments, the encoder, and pairs of images and expression."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from spade import _keys, encoders
from spade._checks import check_idle
from spade.core.checks import brief, check_path, check_text
from spade.core.recipes import seal_recipe
from spade.core.roles import TRAIN
from spade.core.seal.pairs import Pairs, n_batches
from spade.core.vision.lora import blocks_of
from spade.models import SealConfig
from spade.tl._training.data import TrainingData

if TYPE_CHECKING:
    from spade.encoders._timm import TimmEncoder


logger = logging.getLogger("spade")

#: Settings that only an encoder has, and those that only a head on features has.
PIXEL_SETTINGS = ("n_blocks", "targets", "rank", "alpha", "flips", "rotations", "stain_jitter", "micro_batch_size")
FEATURE_SETTINGS = ("hidden", "head")
#: Threads that read patches ahead.
N_WORKERS = 2
#: Arguments, with their defaults, about an encoder's weights and the patches it reads.
READING_SETTINGS = {"weights": None, "cache_dir": None, "patches_key": _keys.PATCHES, "n_workers": N_WORKERS}
#: Settings that only a transformer has.
TRANSFORMER_SETTINGS = ("n_blocks", "targets")
#: A training of fewer steps has hardly begun.
FEW_STEPS = 100


def check_source_of_images(
    encoder: str | None, on_features: str | None, dim: int | None, reading: Mapping[str, object]
) -> None:
    """Raise unless there is one source of images, and every argument about it has a use there."""
    if (encoder is None) == (on_features is None):
        raise ValueError(
            f"encoder={brief(encoder)}, on_features={brief(on_features)}: give one of them, an encoder to tune "
            "or the key of frozen features."
        )
    if on_features is not None:
        check_text("on_features", on_features)
        idle = [(name, value, READING_SETTINGS[name]) for name, value in reading.items()]
        check_idle(idle, "on_features= reads features that are there, no patches")
    elif not isinstance(encoder, str):
        raise TypeError(f"encoder={brief(encoder)}: expected the name of a network, such as 'uni2_h'.")
    elif dim is not None:
        raise ValueError(f"dim={dim!r}: the joint space of a tuned encoder is as wide as its features; leave dim= out.")


def check_used(config: SealConfig) -> None:
    """Raise for settings that were changed where they change nothing."""
    names, what = (PIXEL_SETTINGS, "an encoder") if config.on_features else (FEATURE_SETTINGS, "a head on features")
    check_idle(_settings(config, names), f"has a use only where {what} is trained")


def _settings(config: SealConfig, names: tuple[str, ...]) -> list[tuple[str, object, object]]:
    return [(name, getattr(config, name), getattr(SealConfig, name)) for name in names]


def set_by_spots(data: TrainingData, config: SealConfig, given: Mapping[str, float]) -> SealConfig:
    """Return the settings with those that were not given set by the number of training spots, and log them."""
    n_spots = int((data.role == TRAIN).sum())
    recipe = seal_recipe(n_spots, given, on_features=config.on_features)
    chosen = ", ".join(f"{name}={value:g}" for name, value in recipe.items() if name not in given)
    logger.info("set by the number of training spots (%d): %s", n_spots, chosen or "nothing, all settings are given")
    return replace(config, **recipe)


def tell_few_steps(pairs: Pairs, config: SealConfig) -> None:
    """Log a warning if there are too few steps to learn much."""
    n_rows = int((pairs.role == TRAIN).sum())
    per_epoch = n_batches(n_rows, config.batch_size)
    if (steps := config.n_epochs * per_epoch) < FEW_STEPS:
        logger.warning(
            "steps in all: %d (n_epochs=%d of %d each, of %d training spots). These are few to learn from: raise "
            "n_epochs= or lr=, or lower batch_size=%d.",
            steps, config.n_epochs, per_epoch, n_rows, config.batch_size,
        )  # fmt: skip


def base_encoder(config: SealConfig, weights: str | PathLike[str] | None) -> tuple[TimmEncoder | None, SealConfig]:
    """Return the encoder to tune (None for a head on features), and the settings with the identity of its weights."""
    if config.on_features:
        return None, config
    if config.encoder == "texture":
        raise ValueError(
            'encoder="texture" is not a network, so it cannot be tuned. Name a timm model, or train a head on its '
            'features with on_features="X_texture".'
        )
    encoder: Any = encoders.get(config.encoder or "", weights=weights, device="cpu", rng=config.seed)
    if not blocks_of(encoder.model):
        reason = f"encoder {encoder.name!r} has no transformer blocks; the last stage of a CNN is adapted"
        check_idle(_settings(config, TRANSFORMER_SETTINGS), reason)
    name = None if weights is None else "random" if weights == "random" else check_path("weights", weights).name
    return encoder, replace(config, encoder=encoder.name, encoder_id=encoder.id, weights=name, dim=encoder.dim)


def pairs_of(data: TrainingData, config: SealConfig) -> Pairs:
    """Return the rows with numbered sections, or raise if there are too few to compare."""
    names, section = np.unique(data.section, return_inverse=True)
    train = section[data.role == TRAIN]
    sizes = np.bincount(train, minlength=len(names))
    if len(train) < 2:
        raise ValueError(
            "samples: a single spot is left to train on, but the loss compares spots. Add spots or sections."
        )
    if config.negatives == "section" and (sizes == 1).any():
        alone = ", ".join(names[sizes == 1])
        raise ValueError(
            f'negatives="section": {alone} has a single training spot, which has no negatives. Leave the section out, '
            'or choose negatives="all".'
        )
    if config.adversary and (sizes > 0).sum() < 2:
        raise ValueError(
            f"adversary={config.adversary:g}: there is one section to train on, and the critic needs two; leave it 0."
        )
    return Pairs(data.images, data.expression, section, data.role, names.tolist())
