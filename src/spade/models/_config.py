"""Settings of the methods: the one place of their defaults, and how they are stored with a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from spade.core.checks import check_choice, check_count, check_text
from spade.core.experts.config import TrainingConfig
from spade.core.seal.config import SealTraining

CLUSTER_SPACES = ("image", "expression", "joint")
FEATURE_SCALINGS = ("standard", "none")
ROUTING_SETTINGS = (
    "groupby",
    "n_prototypes",
    "feature_scaling",
    "cluster_space",
    "encoder",
    "encoder_id",
    "patch_um",
    "patch_px",
)
#: Settings that came after the first models were saved: in files and all that is hashed they stand if they are given.
STORED_IF_GIVEN = frozenset({"gene_lr"})
#: What stands in files, and in all that is hashed, for settings that were not given. All others are stored as null.
STORED_FOR_NONE: Mapping[str, str | int] = {"micro_batch_size": 0, "use_rep": "", "weights": ""}


@dataclass(frozen=True)
class SpadeConfig(TrainingConfig):
    """Settings of :func:`spade.tl.train_spade`; those of the optimiser are inherited."""

    use_rep: str | None = "X_texture"
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
        """Return the settings that go with a routing: how it was made, and which features it is for."""
        return {name: getattr(self, name) for name in ROUTING_SETTINGS}

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        check_count("n_prototypes", self.n_prototypes)
        check_count("n_experts", self.n_experts)
        check_count("warm_start", self.warm_start, 0)
        check_choice("feature_scaling", self.feature_scaling, FEATURE_SCALINGS)
        check_choice("cluster_space", self.cluster_space, CLUSTER_SPACES)
        if self.use_rep is not None:
            check_text("use_rep", self.use_rep)


@dataclass(frozen=True)
class SealConfig(SealTraining):
    """Settings of :func:`spade.tl.train_seal`; those of the network and the optimiser are inherited."""

    encoder: str | None = None
    encoder_id: str | None = None
    weights: str | None = None
    patch_um: float | None = None
    patch_px: int | None = None
    use_rep: str | None = None
    layer: str | None = None
    normalized: bool = False
    shuffle_pairs: bool = False
    split_key: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        if self.use_rep is not None:
            check_text("use_rep", self.use_rep)

    @property
    def on_features(self) -> bool:
        """Whether the model reads features of a frozen encoder instead of pixels."""
        return self.use_rep is not None


def stored_settings(config: SpadeConfig | SealConfig) -> dict[str, Any]:
    """Return settings as files, ids and the identity of a training hold them."""
    settings = {
        name: value for name, value in asdict(config).items() if name not in STORED_IF_GIVEN or value is not None
    }
    return settings | {name: settings[name] or stored for name, stored in STORED_FOR_NONE.items() if name in settings}


def settings_of(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that :func:`stored_settings` stored."""
    return {name: None if value == STORED_FOR_NONE.get(name) else value for name, value in stored.items()}
