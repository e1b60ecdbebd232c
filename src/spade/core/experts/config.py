"""Settings of the training of one expert."""

from __future__ import annotations

from dataclasses import dataclass

from spade.core.checks import (
    check_choice,
    check_count,
    check_kinds,
    check_not_negative,
    check_positive,
    check_share,
)
from spade.core.device import PRECISIONS
from spade.core.experts.losses import LOSSES


@dataclass(frozen=True)
class TrainingConfig:
    """All settings of the training of one expert."""

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
        """Check every value, and turn numbers of numpy into plain ones."""
        check_kinds(self)
        check_choice("loss", self.loss, LOSSES)
        check_choice("precision", self.precision, PRECISIONS)
        if self.learn_temperature and self.loss != "clip":
            raise ValueError('learn_temperature=True needs loss="clip"; the temperature of soft_clip is fixed.')
        for name in ("n_epochs", "batch_size", "dim"):
            check_count(name, getattr(self, name))
        for name in ("temperature", "lr"):
            check_positive(name, getattr(self, name))
        for name in ("dropout", "out_of_cluster"):
            check_share(name, getattr(self, name), "[0, 1)")
        check_not_negative("weight_decay", self.weight_decay)
