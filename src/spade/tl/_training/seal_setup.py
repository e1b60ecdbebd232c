"""What a fine-tuning begins with: the encoder, the pairs of images and expression, and the network."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spade import _keys, encoders
from spade._checks import check_idle
from spade.core.experts.routing import feature_scale
from spade.core.expression.normalise import gene_scale
from spade.core.files import digest
from spade.core.rng import seed_torch, torch_stream
from spade.core.roles import TRAIN
from spade.core.seal.network import SealNet
from spade.core.seal.pairs import Pairs, n_batches
from spade.core.vision.lora import blocks_of
from spade.core.vision.towers import FeatureTower, PixelTower
from spade.models import SealConfig
from spade.models._towers import adapt_tower, feature_tower
from spade.tl._training.data import TrainingData
from spade.tl._training.patch_source import PatchReader

if TYPE_CHECKING:
    from spade.encoders._timm import TimmEncoder


logger = logging.getLogger("spade")

#: Settings that a head on features has no use for, and those that a tuned encoder has none for.
PIXEL_SETTINGS = ("n_blocks", "targets", "rank", "alpha", "flips", "rotations", "stain_jitter", "micro_batch_size")
FEATURE_SETTINGS = ("hidden", "head")
#: Threads that read patches ahead.
N_WORKERS = 2
#: Arguments, with their defaults, of an encoder and the patches that it reads.
READING_SETTINGS = {"weights": None, "cache_dir": None, "patches_key": _keys.PATCHES, "n_workers": N_WORKERS}
#: Settings that a tuned CNN has no use for.
OF_BLOCKS = ("n_blocks", "targets")
#: Steps below which a training has hardly begun.
FEW_STEPS = 100


def check_used(config: SealConfig) -> None:
    """Raise for settings that were changed and would change nothing."""
    names, what = (PIXEL_SETTINGS, "an encoder") if config.on_features else (FEATURE_SETTINGS, "a head on features")
    check_idle(_settings(config, names), f"of use only where {what} is trained")


def _settings(config: SealConfig, names: tuple[str, ...]) -> list[tuple[str, object, object]]:
    return [(name, getattr(config, name), getattr(SealConfig, name)) for name in names]


def tell_few_steps(pairs: Pairs, config: SealConfig) -> None:
    """Log it if so few steps will be taken that little can be learned."""
    n_rows = int((pairs.role == TRAIN).sum())
    per_epoch = n_batches(n_rows, config.batch_size)
    if (steps := config.n_epochs * per_epoch) < FEW_STEPS:
        logger.warning(
            "steps in all: %d (n_epochs=%d of %d each, of %d training spots), few to learn from: raise n_epochs= or lr=, or lower batch_size=%d.",
            steps, config.n_epochs, per_epoch, n_rows, config.batch_size,
        )  # fmt: skip


def base_encoder(config: SealConfig, weights: str | PathLike[str] | None) -> tuple[TimmEncoder | None, SealConfig]:
    """Return the encoder to tune, and the settings with what tells its weights from others; None for a head on features."""
    if config.on_features:
        return None, config
    if config.encoder == "texture":
        raise ValueError(
            'encoder="texture" is no network, so it cannot be tuned. Name a timm model, or train a head on its features with '
            'on_features="X_texture".'
        )
    encoder: Any = encoders.get(config.encoder or "", weights=weights, device="cpu", rng=config.seed)
    if not blocks_of(encoder.model):
        reason = f"encoder {encoder.name!r} has no transformer blocks, and of a CNN the last stage is adapted"
        check_idle(_settings(config, OF_BLOCKS), reason)
    name = "" if weights is None else "random" if weights == "random" else Path(weights).name
    return encoder, replace(config, encoder=encoder.name, encoder_id=encoder.id, weights=name, dim=encoder.dim)


def pairs_of(data: TrainingData, config: SealConfig) -> Pairs:
    """Return the training's rows with numbered sections, or raise if there are too few to compare."""
    names, section = np.unique(data.section, return_inverse=True)
    train = section[data.role == TRAIN]
    sizes = np.bincount(train, minlength=len(names))
    if len(train) < 2:
        raise ValueError("a single spot is left to train on, and the loss compares spots; add spots or sections.")
    if config.negatives == "section" and (sizes == 1).any():
        alone = ", ".join(names[sizes == 1])
        raise ValueError(
            f'negatives="section": {alone} has a single training spot, which has nothing to be told from. Leave it out, or choose '
            'negatives="all".'
        )
    if config.adversary and (sizes > 0).sum() < 2:
        raise ValueError(
            f"adversary={config.adversary:g}: there is one section to train on, so none to make alike; leave it 0."
        )
    return Pairs(data.features, data.expression, section, data.role, names.tolist())


def start_net(base: TimmEncoder | None, pairs: Pairs, config: SealConfig) -> SealNet:
    """Return the network before its first step."""
    rows = np.flatnonzero(pairs.role == TRAIN)
    with torch.random.fork_rng(devices=[]):
        seed_torch(torch_stream(config.seed, "initialisation").initial_seed())
        tower: PixelTower | FeatureTower
        if base is None:
            tower = feature_tower(config, *feature_scale(pairs.images[rows], "standard"))  # type: ignore[index]
        else:
            tower = base.tower()
            adapt_tower(tower, base.input_px, config, torch_stream(config.seed, "adapters"))
        n_sections = len(pairs.names) if config.adversary else 0
        return SealNet(tower, config.dim, *gene_scale(pairs.expression, rows), n_sections)


def training_identity(data: TrainingData, config: SealConfig, device: str, images: Any) -> dict[str, Any]:
    """Return what tells a training from others: settings and data."""
    g = data.expression
    return asdict(config) | {
        "device": torch.device(device).type,
        "samples": data.samples,
        "images": images.id if isinstance(images, PatchReader) else digest(data.features),
        "expression": digest(g.indptr, g.indices, g.data),
        "rows": digest(data.role, data.section),
    }
