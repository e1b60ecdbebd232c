"""The folder of a training's state, and what tells one training from another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from spade.core.checks import check_path
from spade.core.distributed.ranks import Ranks
from spade.core.files import digest
from spade.core.locks import TakenError, locked
from spade.core.training_state import StateFolder
from spade.models import SealConfig, SpadeConfig
from spade.models._config import stored_settings
from spade.tl._training.data import TrainingData

#: File that the running training has locked.
LOCK = ".lock"


def training_identity(data: TrainingData, config: SpadeConfig | SealConfig, device: str, **more: str) -> dict[str, Any]:
    """Return what tells a training from others: settings, kind of device, samples, and digests of the data."""
    expression = data.expression
    return stored_settings(config) | {
        "device": torch.device(device).type,
        "samples": data.samples,
        "expression": digest(expression.indptr, expression.indices, expression.data),
        **more,
    }


@contextmanager
def open_state(
    checkpoint_dir: str | PathLike[str] | None, identity: dict[str, Any], ranks: Ranks
) -> Iterator[StateFolder | None]:
    """Yield the folder that keeps the state of a training, which nobody else uses meanwhile; None if there is none.

    Of several processes, one on every machine checks it.
    """
    if checkpoint_dir is None:
        yield None
        return
    with ExitStack() as stack:
        yield _claim(check_path("checkpoint_dir", checkpoint_dir), identity, ranks, stack)


def _claim(folder: Path, identity: dict[str, Any], ranks: Ranks, stack: ExitStack) -> StateFolder:
    """Check that the folder belongs to this training, and lock it until the stack is closed."""
    for rank, local in enumerate(ranks.gather(ranks.local)):
        if local:
            continue
        error: OSError | ValueError | None = None
        if rank == ranks.rank:  # one after another, as machines may share the folder
            try:
                if ranks.leads:
                    folder.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(locked(folder / LOCK, wait=False))
                StateFolder(folder, identity)
            except TakenError:
                error = ValueError(
                    f"checkpoint_dir={str(folder)!r} is in use by another training that is running. Wait for its end, "
                    "or choose another folder."
                )
            except (OSError, ValueError) as raised:
                error = raised
        error = ranks.gather(error)[rank]
        if error is not None:
            raise error
    return StateFolder(folder, None)
