"""The state of a SEAL training: how far it is, and how that is written and read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spade.core.seal.network import SealNet
from spade.core.training_state import StateFolder

#: Stages of a training; the last has no name.
GENE, JOINT, ENDED = "gene", "joint", ""
STATE = "state.npz"
#: What AdamW keeps for a weight.
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
FACTS = ("stage", "step", "sums", "rows", "history", "best_epoch", "best_loss")


@dataclass
class Record:
    """How far a training is: its step, the losses of this epoch and of those before, and the best weights."""

    stage: str = GENE
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = -1
    best_loss: float = math.inf
    best: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """What a folder keeps of a training: its record, and arrays by kind (``net``, ``best``, moments) and name."""

    facts: dict[str, Any]
    arrays: dict[str, dict[str, Tensor]]

    def moments(self, names: Sequence[str]) -> dict[int, dict[str, Tensor]]:
        """Return the optimiser's moments of those weights, by position, that it has stepped."""
        known = self.arrays.get(MOMENTS[0], {})
        return {i: {kind: self.arrays[kind][name] for kind in MOMENTS} for i, name in enumerate(names) if name in known}


def read_state(folder: StateFolder | None) -> State | None:
    """Return the state in a folder; None if there is none."""
    if folder is None or not (path := folder.folder / STATE).exists():
        return None
    facts, flat = folder.read(path, None, (), FACTS)
    arrays: dict[str, dict[str, Tensor]] = {}
    for full, array in flat.items():
        kind, _, name = full.partition(".")
        arrays.setdefault(kind, {})[name] = torch.from_numpy(np.asarray(array))
    return State(facts, arrays)


def write_state(
    folder: StateFolder, net: SealNet, record: Record, optimiser: torch.optim.Optimizer, names: Sequence[str]
) -> None:
    """Write the state of a training; ``names`` are those of the optimiser's weights, in its order."""
    arrays = {f"net.{name}": value for name, value in net.own_state().items()}
    arrays |= {f"best.{name}": value for name, value in record.best.items()}
    for i, moments in optimiser.state_dict()["state"].items():
        arrays |= {f"{kind}.{names[i]}": moments[kind] for kind in MOMENTS}
    folder.write(folder.folder / STATE, {name: getattr(record, name) for name in FACTS}, arrays)


def has_ended(folder: StateFolder) -> bool:
    """Whether the training whose state the folder keeps has taken its last step."""
    state = read_state(folder)
    return state is not None and state.facts["stage"] == ENDED
