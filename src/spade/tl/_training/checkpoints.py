"""Open the folder of a training's state and tell one training from another."""

from __future__ import annotations

from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from spade.core.distributed.ranks import Ranks
from spade.core.experts.checkpoints import Checkpoints
from spade.core.files import digest
from spade.core.training_state import StateFolder
from spade.models import SpadeConfig
from spade.tl._training.data import TrainingData


def training_identity(data: TrainingData, config: SpadeConfig, device: str) -> dict[str, Any]:
    """Return what tells a training from others: settings and data."""
    g = data.expression
    return asdict(config) | {
        "device": torch.device(device).type,
        "samples": data.samples,
        "features": digest(data.features),
        "expression": digest(g.indptr, g.indices, g.data),
    }


def open_checkpoints(
    folder: str | PathLike[str] | None, settings: dict[str, Any], group: Ranks | None
) -> Checkpoints | None:
    """Return where to keep the state of every expert."""
    found = open_states(folder, settings, group)
    return None if found is None else Checkpoints(found.folder, None)


def open_states(
    folder: str | PathLike[str] | None, settings: dict[str, Any], group: Ranks | None
) -> StateFolder | None:
    """Return where to keep the state of a training; of several processes, one on every machine looks whether it may."""
    if folder is None:
        return None
    if group is None:
        return StateFolder(Path(folder), settings)
    for rank, local in enumerate(group.gather(group.local)):
        if local:
            continue
        refused = None
        if rank == group.rank:  # one after another, as machines may share the folder
            try:
                StateFolder(Path(folder), settings)
            except (OSError, ValueError) as error:
                refused = str(error)
        if reason := group.gather(refused)[rank]:
            raise ValueError(reason)
    return StateFolder(Path(folder), None)
