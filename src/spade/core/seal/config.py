"""Settings of SEAL's training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spade.core.checks import check_count, check_kinds
from spade.core.device import PRECISIONS
from spade.core.seal.augment import Augment
from spade.core.vision.towers import HEADS

NEGATIVES = ("all", "section")
WEIGHTS = ("contrastive", "gene_reconstruction", "image_to_gene", "kl", "adversary")


@dataclass(frozen=True)
class SealTraining:
    """Everything that shapes the training of SEAL."""

    n_blocks: int = 1
    targets: tuple[str, ...] = ("qkv", "proj", "fc1", "fc2")
    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.15
    dim: int = 256
    hidden: int = 512
    head: str = "mlp"
    contrastive: float = 1.0
    gene_reconstruction: float = 1.0
    image_to_gene: float = 1.0
    kl: float = 0.0
    adversary: float = 0.0
    temperature: float = 0.05
    negatives: str = "all"
    balance_sections: bool = False
    gene_warmup: int = 0
    flips: bool = True
    rotations: bool = True
    stain_jitter: float = 0.05
    n_epochs: int = 10
    batch_size: int = 384
    micro_batch_size: int | None = None
    lr: float = 1e-4
    weight_decay: float = 0.2
    precision: str = "fp32"

    def __post_init__(self) -> None:
        """Check every value; numbers of numpy become plain ones."""
        check_kinds(self)
        object.__setattr__(self, "targets", (self.targets,) if isinstance(self.targets, str) else tuple(self.targets))
        for name, value, known in (
            ("negatives", self.negatives, NEGATIVES),
            ("precision", self.precision, tuple(PRECISIONS)),
            ("head", self.head, HEADS),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, known))}.")
        for name, least in (
            ("n_blocks", 1), ("rank", 1), ("dim", 1), ("hidden", 1), ("gene_warmup", 0), ("n_epochs", 1), ("batch_size", 2),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a whole number of at least {least}.")
        if self.micro_batch_size is not None:
            check_count("micro_batch_size", self.micro_batch_size)
        for name in ("alpha", "temperature", "lr"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a positive number.")
        for name in (*WEIGHTS, "weight_decay"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a number of at least 0.")
        for name in ("dropout", "stain_jitter"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a number in [0, 1).")
        if not self.targets or not all(isinstance(name, str) and name for name in self.targets):
            raise ValueError(f"targets={self.targets!r}: expected names of layers, such as ('qkv', 'proj').")
        if not (self.contrastive or self.image_to_gene):
            raise ValueError(
                "contrastive=0 and image_to_gene=0: nothing would train the image side; switch one of them on."
            )
        if self.gene_warmup and not self.gene_reconstruction:
            raise ValueError(
                f"gene_warmup={self.gene_warmup} needs gene_reconstruction above 0, which is all that it trains."
            )

    def loss_weights(self) -> dict[str, float]:
        """Weights of the losses that are switched on."""
        return {name: getattr(self, name) for name in WEIGHTS if getattr(self, name)}

    def augment(self) -> Augment:
        """How patches are varied in training."""
        return Augment(flips=self.flips, rotations=self.rotations, stain=self.stain_jitter)
