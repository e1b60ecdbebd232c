"""The steps of ``train_seal`` between reading and the model: adapting, training, and assembling."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import torch

from spade._said.progress import progress_bar
from spade.core.distributed.machine import Machine
from spade.core.experts.routing import feature_scale
from spade.core.expression.covariation import Covariation
from spade.core.expression.normalise import gene_scale
from spade.core.files import digest
from spade.core.rng import seed_torch, torch_stream
from spade.core.roles import TRAIN, VAL
from spade.core.seal.network import SealNet
from spade.core.seal.pairs import Pairs
from spade.core.seal.state import Record
from spade.core.seal.train import train_seal_net
from spade.core.vision.towers import FeatureTower, PixelTower
from spade.encoders._spec import licence_of
from spade.models import GenePanel, SealConfig, SealModel
from spade.models._seal_processes import train_seal_in_processes
from spade.models._towers import adapt_tower, feature_tower
from spade.tl._training.checkpoints import open_state, training_identity
from spade.tl._training.data import TrainingData
from spade.tl._training.history import seal_history
from spade.tl._training.seal_setup import pairs_of, tell_few_steps

if TYPE_CHECKING:
    from spade.encoders._timm import TimmEncoder


@dataclass(frozen=True)
class FineTuning:
    """A network before its training; ``base`` is the encoder that is tuned, None for a head on features."""

    data: TrainingData
    config: SealConfig
    base: TimmEncoder | None
    pairs: Pairs
    net: SealNet


def adapt_network(data: TrainingData, config: SealConfig, base: TimmEncoder | None, machine: Machine) -> FineTuning:
    """Give the encoder its adapters, or start a head on features, beside an untrained expression tower."""
    pairs = pairs_of(data, config)
    if machine.ranks.leads:
        tell_few_steps(pairs, config)
    return FineTuning(data, config, base, pairs, _start_network(base, pairs, config))


def fit_network(
    tuning: FineTuning, machine: Machine, *, n_workers: int, checkpoint_dir: str | PathLike[str] | None
) -> Record:
    """Train the network in place, in this process or several."""
    config, ranks = tuning.config, machine.ranks
    identity = {} if checkpoint_dir is None else seal_identity(tuning.data, config, machine)
    with (
        open_state(checkpoint_dir, identity, ranks) as folder,
        progress_bar(shown=ranks.leads, desc="fine-tuning", unit="step") as bar,
    ):

        def progress(done: int, total: int, loss: float) -> None:
            bar.total = total
            bar.set_postfix_str(f"loss {loss:.3g}", refresh=False)
            bar.update(done - bar.n)

        if machine.devices > 1:
            return train_seal_in_processes(
                tuning.net,
                tuning.pairs,
                config,
                machine=machine,
                n_workers=n_workers,
                folder=folder,
                progress=progress,
            )
        return train_seal_net(
            tuning.net,
            tuning.pairs,
            config,
            seed=config.seed,
            device=machine.device,
            ranks=ranks,
            n_workers=n_workers,
            folder=folder,
            progress=progress,
        )


def assemble_seal(tuning: FineTuning, record: Record, panel: GenePanel, machine: Machine) -> SealModel:
    """Return the model: the network and the facts of its training."""
    data, config, base = tuning.data, tuning.config, tuning.base
    encoder_weights = (value.numel() for name, value in tuning.net.trained() if name.startswith("vision."))
    return SealModel(
        tuning.net,
        config=config,
        genes=panel,
        spec=None if base is None else base.spec,
        input_px=None if base is None else base.input_px,
        covariation=Covariation.of(data.expression, np.flatnonzero(data.role == TRAIN), config.seed),
        history=seal_history(record.history),
        facts={
            "samples": ", ".join(data.samples),
            "licence_of_the_encoder": licence_of(config.encoder),
            "training_spots": int((data.role == TRAIN).sum()),
            "validation_spots": int((data.role == VAL).sum()),
            "trained_weights_of_the_encoder": sum(encoder_weights),
            "best_epoch": record.best_epoch,
        },
        device=machine.device,
    )


def seal_identity(data: TrainingData, config: SealConfig, machine: Machine) -> dict[str, object]:
    """Return what tells this training from others."""
    rows = digest(data.role, data.section)
    return training_identity(data, config, machine.device, images=data.images_id(), rows=rows)


def _start_network(base: TimmEncoder | None, pairs: Pairs, config: SealConfig) -> SealNet:
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
