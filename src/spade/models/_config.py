"""Settings of the methods: the one place of their defaults, and what is saved with a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spade.core.experts.config import TrainingConfig
from spade.core.seal.config import SealTraining

CLUSTER_SPACES = ("image", "expression", "joint")
OF_ROUTING = (
    "groupby",
    "n_prototypes",
    "feature_scaling",
    "cluster_space",
    "encoder",
    "encoder_id",
    "patch_um",
    "patch_px",
)


@dataclass(frozen=True)
class SpadeConfig(TrainingConfig):
    """Settings of :func:`spade.tl.train_spade`; those of the optimiser are inherited."""

    use_rep: str = "X_texture"
    encoder: str | None = None
    encoder_id: str | None = None
    patch_um: float | None = None
    patch_px: int | None = None
    layer: str | None = None
    normalized: bool = False
    groupby: str | None = None
    n_prototypes: int = 16
    n_experts: int = 16
    feature_scaling: str = "standard"
    cluster_space: str = "image"
    routing_temperature: float = 0.1
    warm_start: int = 0
    shuffle_pairs: bool = False
    split_key: str | None = None
    init: str | None = None
    seed: int = 0

    def of_routing(self) -> dict[str, Any]:
        """Return the settings that a routing brings along: how it was made, and the features it is for."""
        return {name: getattr(self, name) for name in OF_ROUTING}

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        for name in ("n_prototypes", "n_experts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a whole number of at least 1.")
        if self.feature_scaling not in ("standard", "none"):
            raise ValueError(f'feature_scaling={self.feature_scaling!r}: expected "standard" or "none".')
        if self.cluster_space not in CLUSTER_SPACES:
            raise ValueError(
                f"cluster_space={self.cluster_space!r}: expected one of {', '.join(map(repr, CLUSTER_SPACES))}."
            )
        if self.warm_start < 0:
            raise ValueError(f"warm_start={self.warm_start!r}: expected a number of epochs, 0 for none.")


@dataclass(frozen=True)
class SealConfig(SealTraining):
    """Settings of :func:`spade.tl.train_seal`; those of network and optimiser are inherited."""

    encoder: str | None = None
    encoder_id: str | None = None
    weights: str = ""
    patch_um: float | None = None
    patch_px: int | None = None
    use_rep: str = ""
    layer: str | None = None
    normalized: bool = False
    shuffle_pairs: bool = False
    split_key: str | None = None
    seed: int = 0

    @property
    def on_features(self) -> bool:
        """Whether it reads features of a frozen encoder in place of pixels."""
        return bool(self.use_rep)
