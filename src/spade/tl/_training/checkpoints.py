"""The folder of a training's state, and what tells one training from another."""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch

from spade.core.checks import check_path
from spade.core.distributed.ranks import Ranks
from spade.core.files import digest
from spade.core.training_state import StateFolder
from spade.models import SealConfig, SpadeConfig
from spade.models._config import stored_settings
from spade.tl._training.data import TrainingData


def training_identity(data: TrainingData, config: SpadeConfig | SealConfig, device: str, **more: str) -> dict[str, Any]:
    """Return what tells a training from others: settings, kind of device, samples, and digests of the data."""
    expression = data.expression
    return stored_settings(config) | {
        "device": torch.device(device).type,
        "samples": data.samples,
        "expression": digest(expression.indptr, expression.indices, expression.data),
        **more,
    }


def open_state(
    checkpoint_dir: str | PathLike[str] | None, identity: dict[str, Any], ranks: Ranks
) -> StateFolder | None:
    """Return the folder that keeps the state of a training; of several processes, one on every machine checks it."""
    if checkpoint_dir is None:
        return None
    folder = check_path("checkpoint_dir", checkpoint_dir)
    for rank, local in enumerate(ranks.gather(ranks.local)):
        if local:
            continue
        error: OSError | ValueError | None = None
        if rank == ranks.rank:  # one after another, as machines may share the folder
            try:
                StateFolder(folder, identity)
            except (OSError, ValueError) as raised:
                error = raised
        error = ranks.gather(error)[rank]
        if error is not None:
            raise error
    return StateFolder(folder, None)
