"""The expert of every training spot: clusters of images, of expression, or of both."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats
from spade.core.evaluation.held_out import penalty_folds
from spade.core.experts.clustering import two_stage
from spade.core.experts.routing import Routing, feature_scale
from spade.core.expression.gates import fit_gates, held_out_logits, leading_directions
from spade.core.roles import NOT_USED, TRAIN
from spade.models import SpadeConfig
from spade.tl._training.data import TrainingData

logger = logging.getLogger("spade")
N_COMPONENTS = 50


def cluster_training(data: TrainingData, config: SpadeConfig, device: str) -> tuple[Routing, NDArray[np.integer]]:
    """Cluster the training rows in two stages; return prototypes of the images, and the expert of every row.

    Clusters of images are their own prototypes. A cluster of expression, or of both, gets a prototype afterwards: the
    mean image features of its training rows. Images without expression can therefore always be routed, but the expert
    that a spot trains is then not always the one that its image is routed to. With a learned gate, a classifier routes
    instead of the distances to these prototypes.
    """
    train = data.role == TRAIN
    settings: dict[str, Any] = {
        "groups": data.groups,
        "rows": np.flatnonzero(train),
        "n_prototypes": config.n_prototypes,
        "n_experts": config.n_experts,
        "temperature": config.routing_temperature,
        "seed": config.seed,
        "device": device,
    }
    if config.cluster_space == "image":
        routing = two_stage(data.images, feature_scaling=config.feature_scaling, **settings)
        return routing, routing.assignment[routing.assign(data.images)]
    mean, scale = feature_scale(data.images, config.feature_scaling, settings["rows"])
    space = _components(data, train, config.seed)
    if config.gate is not None:  # no gate can tell clusters that are sections
        space = _centred(space, data.section, train)
    if config.cluster_space == "joint":
        images = (data.images - mean) / scale
        spread = np.sqrt(images[train].var(0).sum()) or 1.0  # both sides then have variance 1
        space = np.concatenate([images / spread, space], axis=1, dtype=np.float32)
    clusters = two_stage(space, feature_scaling="none", **settings)
    prototype = clusters.assign(space)
    used = np.unique(prototype[train])
    centroids = np.stack(
        [(data.images[train & (prototype == k)].mean(0, dtype=np.float64) - mean) / scale for k in used]
    )
    expert_of = clusters.assignment[prototype]
    gate: dict[str, Any] = {} if config.gate is None else _fit_gate(data, expert_of, mean, scale, config)
    routing = Routing(
        centroids,
        clusters.assignment[used],
        mean,
        scale,
        config.routing_temperature,
        active=np.ones(config.n_experts, dtype=bool),
        groups=tuple(clusters.groups[k] for k in used),
        **gate,
    )
    return routing, expert_of


def _fit_gate(
    data: TrainingData, expert_of: NDArray[np.integer], mean: Floats, scale: Floats, config: SpadeConfig
) -> dict[str, Any]:
    """Fit a classifier that tells the expert of a spot from its scaled image features.

    Its penalty is the one with the lowest loss on held-out rows: those that validate, else each section in turn.
    """
    read = np.flatnonzero(data.role != NOT_USED)
    x, role = (data.images[read] - mean) / scale, data.role[read]
    basis = leading_directions(x[role == TRAIN])
    x, labels, sizes = x @ basis, expert_of[read].astype(np.int64)[:, None], [config.n_experts]
    folds = penalty_folds(role, data.section[read], None, 0.0, config.seed)
    strength, loss, _ = held_out_logits(x, labels, sizes, folds)
    logger.info("gate of %d experts: strength %g, log loss %.3f on held-out spots", config.n_experts, strength, loss)
    gates = fit_gates(x[role == TRAIN], labels[role == TRAIN], sizes, strength)
    return {"gate": (basis @ gates.weights).astype(np.float32), "gate_bias": gates.bias.astype(np.float32)}


def _centred(space: Floats, section: NDArray[np.str_], train: NDArray[np.bool_]) -> Floats:
    """Return coordinates minus the mean of the training rows of their section; all its rows if none is trained on."""
    out = space.copy()
    for name in np.unique(section):
        inside = section == name
        rows = inside & train if (inside & train).any() else inside
        out[inside] -= space[rows].mean(0)
    return out


def _components(data: TrainingData, train: NDArray[np.bool_], seed: int) -> Floats:
    """Project all rows on the first components of the training rows' expression, scaled to a total variance of 1."""
    from sklearn.decomposition import PCA

    expression = data.expression[train]
    n = min(N_COMPONENTS, *(size - 1 for size in expression.shape))
    if n < 1:
        raise ValueError(f"cluster_space: expression of shape {expression.shape} has no principal components.")
    pca = PCA(n, svd_solver="arpack", random_state=seed % 2**32).fit(expression.astype(np.float64))
    total = float(np.sqrt(pca.explained_variance_.sum())) or 1.0
    chunks = range(0, len(train), 65_536)
    return np.concatenate([pca.transform(data.expression[i : i + 65_536]) / total for i in chunks]).astype(np.float32)
