"""Image towers of a SEAL model: an encoder with adapters, or a head on frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import NamedTuple

import torch
from torch import Tensor

from spade.core.arrays import Floats
from spade.core.vision.lora import NAMES, adapt
from spade.core.vision.towers import FeatureTower, PixelTower
from spade.encoders import EncoderSpec
from spade.encoders._spec import spec_of
from spade.models._config import SealConfig


class Tuned(NamedTuple):
    """An encoder with adapters, what is known of it, and the side of its input in pixels."""

    tower: PixelTower
    spec: EncoderSpec
    input_px: int


def tuned_tower(config: SealConfig, weights: str | PathLike[str] | Mapping[str, Tensor] | None) -> Tuned:
    """Return an encoder with adapters that do not change its output yet."""
    from spade.encoders._timm import TimmEncoder

    spec = spec_of(config.encoder)
    if weights is None and config.weights == "random":
        weights = "random"
    encoder = TimmEncoder(spec, weights=weights, device="cpu", rng=config.seed)
    if config.encoder_id is not None and encoder.id != config.encoder_id:
        given = "of the model itself" if isinstance(weights, Mapping) else repr(weights)
        raise ValueError(
            f"weights={given}: encoder {config.encoder!r} has id {encoder.id}, but the model was tuned from "
            f"{config.encoder_id}. Pass the file of these weights with weights=."
        )
    tower = encoder.tower()
    adapt_tower(tower, encoder.input_px, config)
    return Tuned(tower, spec, encoder.input_px)


def adapt_tower(tower: PixelTower, input_px: int, config: SealConfig, generator: torch.Generator | None = None) -> None:
    """Freeze the encoder of a tower and give it the adapters of the settings."""
    adapt(
        tower.model,
        input_px,
        n_blocks=config.n_blocks,
        targets=config.targets,
        rank=config.rank,
        alpha=config.alpha,
        dropout=config.dropout,
        generator=generator,
    )


def feature_tower(config: SealConfig, mean: Floats, deviation: Floats) -> FeatureTower:
    """Return the head on frozen features of the settings."""
    return FeatureTower(mean, deviation, config.dim, hidden=config.hidden, head=config.head, dropout=config.dropout)


def base_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the frozen weights of an adapted encoder, under the names that they have without adapters."""
    return {
        name.replace(".base_layer.", "."): value
        for name, value in state.items()
        if not any(part in name for part in NAMES)
    }
