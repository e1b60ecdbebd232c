"""Settings of the training of one expert."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from spade.core.losses import LOSSES

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: What settings with a default of this kind accept, what they become, and what that is called.
KINDS: dict[type, tuple[Any, Callable[[Any], Any], str]] = {
    bool: ((bool, np.bool_), bool, "True or False"),
    int: (Integral, int, "a whole number"),
    float: (Real, float, "a number"),
}


def check_kinds(config: Any) -> None:
    """Raise if a field of a frozen dataclass is not of the kind of its default; numbers of numpy become plain ones."""
    for one in fields(config):
        kind, value = type(one.default), getattr(config, one.name)
        if kind in KINDS:
            base, plain, what = KINDS[kind]
            if not isinstance(value, base) or (kind is not bool and isinstance(value, (bool, np.bool_))):
                raise ValueError(f"{one.name}={value!r}: expected {what}.")
            if type(value) not in KINDS:
                object.__setattr__(config, one.name, plain(value))


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that shapes the training of one expert."""

    loss: str = "soft_clip"
    temperature: float = 1.0
    learn_temperature: bool = False
    n_epochs: int = 100
    batch_size: int = 128
    lr: float = 1e-4
    weight_decay: float = 1e-2
    dim: int = 256
    dropout: float = 0.1
    out_of_cluster: float = 0.0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        """Check every value; numbers of numpy become plain ones."""
        check_kinds(self)
        if self.loss not in LOSSES:
            raise ValueError(f"loss={self.loss!r}: expected one of {', '.join(map(repr, LOSSES))}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r}: expected one of {', '.join(map(repr, PRECISIONS))}.")
        if self.learn_temperature and self.loss != "clip":
            raise ValueError('learn_temperature=True needs loss="clip"; soft_clip has a fixed temperature.')
        for name in ("n_epochs", "batch_size", "dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a whole number of at least 1.")
        for name in ("temperature", "lr"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a positive number.")
        for name in ("dropout", "out_of_cluster"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a number in [0, 1).")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay={self.weight_decay!r}: expected a number of at least 0.")


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite."""
