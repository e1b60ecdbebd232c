"""Settings of the training of SEAL."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from spade.core.checks import (
    brief,
    check_choice,
    check_count,
    check_kinds,
    check_not_negative,
    check_positive,
    check_share,
)
from spade.core.device import PRECISIONS
from spade.core.seal.augment import Augment
from spade.core.vision.towers import HEADS

NEGATIVES = ("all", "section")
#: Names of the losses, which are also those of their weights.
WEIGHTS = ("contrastive", "gene_reconstruction", "image_to_gene", "kl", "adversary")


@dataclass(frozen=True)
class SealTraining:
    """All settings of the training of SEAL."""

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
    gene_lr: float | None = None
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
        """Check every value, and turn numbers of numpy into plain ones."""
        check_kinds(self)
        object.__setattr__(self, "targets", self._checked_targets())
        check_choice("negatives", self.negatives, NEGATIVES)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("head", self.head, HEADS)
        for name in ("n_blocks", "rank", "dim", "hidden", "n_epochs"):
            check_count(name, getattr(self, name))
        check_count("gene_warmup", self.gene_warmup, 0)
        check_count("batch_size", self.batch_size, 2)
        if self.micro_batch_size is not None:
            check_count("micro_batch_size", self.micro_batch_size)
        for name in ("alpha", "temperature", "lr"):
            check_positive(name, getattr(self, name))
        if self.gene_lr is not None:
            object.__setattr__(self, "gene_lr", check_positive("gene_lr", self.gene_lr))
        for name in (*WEIGHTS, "weight_decay"):
            check_not_negative(name, getattr(self, name))
        for name in ("dropout", "stain_jitter"):
            check_share(name, getattr(self, name), "[0, 1)")
        if not (self.contrastive or self.image_to_gene):
            raise ValueError(
                "contrastive=0 and image_to_gene=0 leave no loss for the image side; set one of them above 0."
            )
        if self.gene_warmup and not self.gene_reconstruction:
            raise ValueError(
                f"gene_warmup={self.gene_warmup} needs gene_reconstruction above 0, the main loss of the warm-up."
            )
        if self.gene_lr is not None and not self.gene_warmup:
            raise ValueError(
                f"gene_lr={self.gene_lr:g} is the rate of the warm-up, but gene_warmup=0 turns it off; set its epochs, "
                "or leave gene_lr out."
            )

    def _checked_targets(self) -> tuple[str, ...]:
        """Return the names of layers as a tuple; a single name is one of them."""
        targets = (self.targets,) if isinstance(self.targets, str) else self.targets
        names = tuple(targets) if isinstance(targets, Iterable) else ()
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"targets={brief(self.targets)}: expected names of layers, such as ('qkv', 'proj').")
        return names

    def rate(self, *, warmup: bool) -> float:
        """Return the highest learning rate of a stage."""
        return self.gene_lr if warmup and self.gene_lr is not None else self.lr

    def loss_weights(self) -> dict[str, float]:
        """Return the weights of the losses that are switched on."""
        return {name: getattr(self, name) for name in WEIGHTS if getattr(self, name)}

    def augment(self) -> Augment:
        """Return the augmentation of patches in training."""
        return Augment(flips=self.flips, rotations=self.rotations, stain=self.stain_jitter)
