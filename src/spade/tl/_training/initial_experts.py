"""The experts that a training begins with: those of another model, or one that was trained on all spots."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np

from spade.core.arrays import Floats
from spade.core.distributed.machine import Machine
from spade.core.experts.checkpoints import Checkpoints
from spade.core.experts.heads import Experts
from spade.core.experts.routing import Routing
from spade.core.experts.train import train_experts, unfold_scaling
from spade.core.rng import as_seed, numpy_stream
from spade.models import GenePanel, SpadeConfig, SpadeModel
from spade.models._genes import READING
from spade.tl._training.data import TrainingData

WARM_START = "warm_start"


def check_init(init: SpadeModel, panel: GenePanel, routing: Routing | None, config: SpadeConfig) -> None:
    """Raise if training cannot begin with the experts of this model."""
    if config.warm_start:
        raise ValueError(
            f"warm_start={config.warm_start} and init= both make the experts that training begins with: choose one."
        )
    names = panel.names if init.genes is None else init.genes.names
    if len(panel) != init.n_genes or panel.names != names:
        raise ValueError(
            f"genes: these {len(panel)} genes are not those of init= in their order ({init.n_genes} genes). Leave "
            "genes= out, or pass the genes of its input."
        )
    if init.genes is not None:
        _check_reading(init, init.genes, panel, config)
    if routing is not None and (routing.n_experts, routing.n_features) != (init.n_experts, init.n_features):
        raise ValueError(
            f"routing: {routing.n_experts} experts on {routing.n_features} features, but init= has {init.n_experts} on "
            f"{init.n_features}. Leave routing= out, or cluster alike."
        )


def _check_reading(init: SpadeModel, genes: GenePanel, panel: GenePanel, config: SpadeConfig) -> None:
    """Raise if expression would be read in another scale than that of the weights that training begins with."""
    if config.normalized != init.config.normalized:
        raise ValueError(
            f"normalized={config.normalized}, but init= was trained with normalized={init.config.normalized}: its "
            f"weights fit values of that scale. Pass normalized={init.config.normalized}, and the layer= with such "
            "values, or train without init=."
        )
    differing = [name for name in READING if getattr(panel, name) != getattr(genes, name)]
    if differing:
        ours, theirs = (", ".join(f"{name}={getattr(of, name)!r}" for name in differing) for of in (panel, genes))
        raise ValueError(
            f"genes: expression would be read with {ours}, but init= was trained with {theirs}: its weights fit that "
            "scale. Leave genes= out, or pass genes=init.genes."
        )


def on_scaled_features(init: SpadeModel, mean: Floats, deviation: Floats) -> Experts:
    """Return a copy of a model's experts that reads scaled features."""
    experts = copy.deepcopy(init.experts)
    unfold_scaling(experts, mean, deviation)
    return experts


def warm_start_experts(
    data: TrainingData,
    config: SpadeConfig,
    n_experts: int,
    scale: tuple[Floats, Floats],
    *,
    machine: Machine,
    checkpoints: Checkpoints | None,
) -> Experts:
    """Train one expert on all spots, and return it once for every expert; ``scale``: mean and deviation of features."""

    def train() -> Experts:
        state = None
        if checkpoints is not None:
            identity = {"of": WARM_START, "training": checkpoints.training()}
            state = Checkpoints(checkpoints.folder / WARM_START, identity)
        shared, _ = train_experts(
            data.images,
            data.expression,
            np.zeros(len(data.role), dtype=np.int64),
            data.role,
            1,
            replace(config, n_epochs=config.warm_start, out_of_cluster=0.0),
            mean=scale[0],
            deviation=scale[1],
            seed=as_seed(numpy_stream(config.seed, WARM_START)),
            device=machine.device,
            checkpoints=state,
        )
        return shared

    shared = machine.ranks.first(train)
    experts = Experts(n_experts, data.images.shape[1], data.expression.shape[1], config.dim)
    experts.load_state_dict(
        {name: value.expand(n_experts, *value.shape[1:]) for name, value in shared.state_dict().items()}
    )
    return experts
