"""The steps of ``train_spade`` between reading and the model: clustering, training, and assembling."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from spade._said.progress import progress_bar
from spade.core.arrays import Floats, Rows, scale_of
from spade.core.distributed.dealing import deal
from spade.core.distributed.machine import Machine
from spade.core.errors import warn
from spade.core.experts.checkpoints import Checkpoints
from spade.core.experts.heads import Experts
from spade.core.experts.one_process import TrainedExpert
from spade.core.experts.routing import Routing, feature_scale
from spade.core.experts.train import fold_scaling, train_experts
from spade.core.expression.covariation import Covariation
from spade.core.expression.normalise import group_sums
from spade.core.files import digest
from spade.core.recipes import cluster_recipe, spade_recipe
from spade.core.roles import TRAIN, VAL
from spade.encoders._spec import licence_of
from spade.models import GenePanel, SpadeConfig, SpadeModel
from spade.tl._training.checkpoints import open_state, training_identity
from spade.tl._training.data import TrainingData
from spade.tl._training.expert_of_spot import cluster_training
from spade.tl._training.history import losses_of_best_epochs, spade_history
from spade.tl._training.initial_experts import on_scaled_features, warm_start_experts

logger = logging.getLogger("spade")
#: An expert with fewer training spots learns little.
FEW_SPOTS = 20


@dataclass(frozen=True)
class ExpertTraining:
    """What the experts are trained on.

    Attributes
    ----------
    data, config
        The rows of all samples, and the settings.
    routing
        Prototypes and their experts.
    expert_of
        Expert of every row.
    sizes
        Training rows of every expert.
    mean, deviation
        The heads read features as ``(x - mean) / deviation``.
    """

    data: TrainingData
    config: SpadeConfig
    routing: Routing
    expert_of: NDArray[np.integer]
    sizes: Rows
    mean: Floats
    deviation: Floats


def set_by_spots(
    data: TrainingData, config: SpadeConfig, given: Mapping[str, float], routing: Routing | None
) -> SpadeConfig:
    """Return the settings with those that were not given set by the number of training spots, and log them."""
    groups = np.unique(data.groups[data.role == TRAIN])
    n_spots = int((data.role == TRAIN).sum())
    if routing is None:
        clusters = cluster_recipe(n_spots, len(groups), given)
    else:
        clusters = {"n_experts": config.n_experts, "n_prototypes": config.n_prototypes}
    no_warm_start = {} if config.init is None else {"warm_start": 0}
    recipe = clusters | spade_recipe(n_spots, {**no_warm_start, **given, **clusters})
    chosen = ", ".join(f"{name}={value:g}" for name, value in recipe.items() if name not in given)
    logger.info("set by the number of training spots (%d): %s", n_spots, chosen or "nothing, all settings are given")
    return replace(config, **recipe)


def assign_experts(
    data: TrainingData, config: SpadeConfig, routing: Routing | None, machine: Machine
) -> ExpertTraining:
    """Cluster the training rows, or use a given routing, and find the expert of every row."""
    if routing is None:
        routing, expert_of = machine.ranks.first(lambda: cluster_training(data, config, machine.device))
    elif routing.n_features == data.images.shape[1]:
        expert_of = routing.expert_of(data.images)
    else:
        raise ValueError(
            f"routing was made on features of width {routing.n_features}, but obsm[{config.use_rep!r}] has width "
            f"{data.images.shape[1]}. Cluster these features with sp.tl.cluster_experts."
        )
    facts = {"routing": digest(routing.centroids, routing.assignment), "split": digest(data.role)}
    machine.ranks.alike(lambda: facts)
    sizes, n_val = (np.bincount(expert_of[data.role == role], minlength=routing.n_experts) for role in (TRAIN, VAL))
    _warn_of_gaps(sizes, n_val, config.split_key)
    routing = replace(routing, active=sizes > 0, settings=config.of_routing())
    mean, deviation = feature_scale(data.images, config.feature_scaling, np.flatnonzero(data.role == TRAIN))
    if config.feature_scaling == "standard":
        deviation = deviation / np.sqrt(len(deviation))
    return ExpertTraining(data, config, routing, expert_of, sizes, mean, deviation)


def fit_experts(
    training: ExpertTraining,
    init: SpadeModel | None,
    machine: Machine,
    checkpoint_dir: str | PathLike[str] | None,
) -> tuple[Experts, list[TrainedExpert]]:
    """Train the experts, from ``init`` or a warm start if there is one; their image heads read features as they are."""
    data = training.data
    identity = spade_identity(data, training.config, machine) if checkpoint_dir is not None else {}
    identity |= {"rows": digest(training.expert_of, data.role)}
    with open_state(checkpoint_dir, identity, machine.ranks) as state:
        return _fit(training, init, machine, None if state is None else Checkpoints(state.folder, None))


def _fit(
    training: ExpertTraining, init: SpadeModel | None, machine: Machine, checkpoints: Checkpoints | None
) -> tuple[Experts, list[TrainedExpert]]:
    """Train the experts from where the checkpoints say."""
    data, config, ranks = training.data, training.config, machine.ranks
    scale = training.mean, training.deviation
    start = None if init is None else on_scaled_features(init, *scale)
    if config.warm_start:
        start = warm_start_experts(
            data, config, training.routing.n_experts, scale, machine=machine, checkpoints=checkpoints
        )
    own_experts = deal(training.sizes, ranks.world)[ranks.rank]
    with progress_bar(
        shown=ranks.leads,
        total=config.n_epochs * int((training.sizes[own_experts] > 0).sum()),
        initial=0 if checkpoints is None else checkpoints.epochs(own_experts),
        desc="training experts",
        unit="epoch",
    ) as bar:

        def progress(expert: int, _epoch: int, train_loss: float, _val_loss: float) -> None:
            bar.set_postfix_str(f"expert {expert}, loss {train_loss:.3g}", refresh=False)
            bar.update()

        experts, trained = train_experts(
            data.images,
            data.expression,
            training.expert_of,
            data.role,
            training.routing.n_experts,
            config,
            mean=training.mean,
            deviation=training.deviation,
            init=start,
            seed=config.seed,
            device=machine.device,
            devices=machine.devices,
            ranks=ranks,
            checkpoints=checkpoints,
            progress=progress,
        )
    fold_scaling(experts, *scale)
    return experts, trained


def assemble_spade(
    experts: Experts, trained: list[TrainedExpert], training: ExpertTraining, panel: GenePanel
) -> SpadeModel:
    """Return the model: the experts, how both modalities are routed to them, and the facts of the training."""
    data, sizes = training.data, training.sizes
    expression_mean, expression_routing = _expression_routing(training)
    return SpadeModel(
        experts,
        training.routing,
        config=training.config,
        genes=panel,
        expression_routing=expression_routing,
        expression_mean=expression_mean,
        covariation=Covariation.of(data.expression, np.flatnonzero(data.role == TRAIN), training.config.seed),
        history=spade_history(trained, sizes),
        facts={
            "samples": ", ".join(data.samples),
            "licence_of_the_encoder": licence_of(training.config.encoder),
            "training_spots": int((data.role == TRAIN).sum()),
            "validation_spots": int((data.role == VAL).sum()),
            "spots_per_expert": ", ".join(map(str, sizes)),
            "best_epochs": ", ".join(str(one.best_epoch) for one in trained),
            "loss_of_the_best_epochs": losses_of_best_epochs(trained),
        },
    )


def spade_identity(data: TrainingData, config: SpadeConfig, machine: Machine) -> dict[str, object]:
    """Return what tells this training from others."""
    return training_identity(data, config, machine.device, features=data.images_id())


def _warn_of_gaps(n_train: Rows, n_val: Rows, split_key: str | None) -> None:
    """Warn of experts without spots to train on or to choose an epoch by."""
    empty = np.flatnonzero(n_train == 0)
    if len(empty):
        warn(
            f"{_experts(empty)} no training spots: "
            f"{'it stays' if len(empty) == 1 else 'they stay'} untrained, and routing passes over "
            f"{'it' if len(empty) == 1 else 'them'}."
        )
    few = np.flatnonzero((n_train > 0) & (n_train < FEW_SPOTS))
    if len(few):
        warn(
            f"{_experts(few)} fewer than {FEW_SPOTS} spots to train on ({', '.join(map(str, n_train[few]))}) and learn "
            "little: set fewer experts with n_experts=, train on more samples, share spots with out_of_cluster=, or "
            "begin with a common model, warm_start=."
        )
    blind = np.flatnonzero((n_val == 0) & (n_train > 0))
    if split_key is not None and n_val.any() and len(blind):
        warn(f"{_experts(blind)} no validation spots: the last epoch is kept.")


def _experts(numbers: Rows) -> str:
    """Return the subject and verb of a sentence about some experts."""
    listed = ", ".join(map(str, numbers))
    return f"expert {listed} has" if len(numbers) == 1 else f"experts {listed} have"


def _expression_routing(training: ExpertTraining) -> tuple[Floats, Routing]:
    """Return the mean training expression, and a routing with each expert's mean expression as its prototype."""
    data, config, sizes = training.data, training.config, training.sizes
    train = np.flatnonzero(data.role == TRAIN)
    sums, squares = group_sums(data.expression, train, training.expert_of, len(sizes))
    mean = sums.sum(0) / sizes.sum()
    if config.feature_scaling == "standard":
        variance = squares.sum(0) / sizes.sum() - mean**2
        centre, scale = mean, scale_of(mean, variance) * np.sqrt(len(mean))
    else:
        centre, scale = np.zeros_like(mean), np.ones_like(mean)
    means = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], mean)
    experts = np.arange(len(sizes))
    routing = Routing((means - centre) / scale, experts, centre, scale, config.routing_temperature, active=sizes > 0)
    return mean, routing
