"""Settings of the methods: the one place of their defaults, and how they are stored with a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spade.core.checks import brief, check_choice, check_count, check_kinds, check_text
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
    "colour",
    "context",
    "gate",
)
GATES = ("learned",)
#: Settings that came after the first models were saved: in files and all that is hashed they stand if they are given.
STORED_IF_GIVEN = frozenset({"gene_lr", "gate", "colour", "context", "further_ids"})
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
    colour: str | None = None
    context: str | None = None
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
    gate: str | None = None

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
        if self.gate is not None:
            check_choice("routing", self.gate, GATES)
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
    colour: str | None = None
    context: str | None = None
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


@dataclass(frozen=True)
class ProgramConfig:
    """Settings of :func:`spade.tl.train_programs`; ``use_rep`` holds its keys, joined by ``" + "``."""

    use_rep: str = "X_texture"
    widths: tuple[int, ...] = ()
    #: Origins of all keys but the first, parted by spaces; ``-``: unknown.
    further_ids: str | None = None
    encoder: str | None = None
    encoder_id: str | None = None
    patch_um: float | None = None
    patch_px: int | None = None
    colour: str | None = None
    context: str | None = None
    layer: str | None = None
    targets: str = "expression"
    n_programs: int = 8
    n_clusters: tuple[int, ...] = (6, 8, 10, 12, 16)
    split_key: str | None = None
    shuffle_pairs: bool = False
    seed: int = 0
    strength: float = 0.0
    alpha: float = 0.0

    def __post_init__(self) -> None:
        """Check every value; lists, as files hold them, become tuples."""
        check_kinds(self)
        check_text("use_rep", self.use_rep)
        check_text("targets", self.targets)
        check_count("n_programs", self.n_programs, 0)
        for name, least in (("widths", 1), ("n_clusters", 2)):
            values = getattr(self, name)
            if not isinstance(values, Sequence) or isinstance(values, str) or (name == "n_clusters" and not values):
                raise ValueError(f"{name}={brief(values)}: expected whole numbers, such as (6, 8, 10).")
            object.__setattr__(self, name, tuple(check_count(name, value, least) for value in values))

    @property
    def keys(self) -> tuple[str, ...]:
        """The ``obsm`` keys that are read."""
        return tuple(self.use_rep.split(" + "))


def stored_settings(config: SpadeConfig | SealConfig | ProgramConfig) -> dict[str, Any]:
    """Return settings as files, ids and the identity of a training hold them."""
    settings = {
        name: value for name, value in asdict(config).items() if name not in STORED_IF_GIVEN or value is not None
    }
    return settings | {name: settings[name] or stored for name, stored in STORED_FOR_NONE.items() if name in settings}


def settings_of(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that :func:`stored_settings` stored."""
    return {name: None if value == STORED_FOR_NONE.get(name) else value for name, value in stored.items()}
