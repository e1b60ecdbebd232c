"""Settings of the training of one expert."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spade.core.checks import check_kinds
from spade.core.device import PRECISIONS
from spade.core.experts.losses import LOSSES


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
