"""The expert of every training spot: clusters of images, of expression, or of both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats
from spade.core.experts.clustering import two_stage
from spade.core.experts.routing import Routing, feature_scale
from spade.core.roles import TRAIN
from spade.models import SpadeConfig
from spade.tl._training.data import TrainingData

N_COMPONENTS = 50


def cluster_training(data: TrainingData, config: SpadeConfig, device: str) -> tuple[Routing, NDArray[np.integer]]:
    """Cluster the training rows in two stages; return prototypes of the images, and the expert of every row.

    Clusters of images are their own prototypes. A cluster of expression, or of both, gets a prototype afterwards: the
    mean image features of its training rows. Images without expression can therefore always be routed, but the expert
    that a spot trains is then not always the one that its image is routed to.
    """
    train = data.role == TRAIN
    settings = {
        "groups": data.groups[train],
        "n_prototypes": config.n_prototypes,
        "n_experts": config.n_experts,
        "temperature": config.routing_temperature,
        "seed": config.seed,
        "device": device,
    }
    if config.cluster_space == "image":
        routing = two_stage(data.train_features(), feature_scaling=config.feature_scaling, **settings)
        return routing, routing.assignment[routing.assign(data.images)]
    mean, scale = feature_scale(data.train_features(), config.feature_scaling)
    space = _components(data, train, config.seed)
    if config.cluster_space == "joint":
        images = (data.images - mean) / scale
        spread = np.sqrt(images[train].var(0).sum()) or 1.0  # both sides then have variance 1
        space = np.concatenate([images / spread, space], axis=1, dtype=np.float32)
    clusters = two_stage(space[train], feature_scaling="none", **settings)
    prototype = clusters.assign(space)
    used = np.unique(prototype[train])
    centroids = np.stack(
        [(data.images[train & (prototype == k)].mean(0, dtype=np.float64) - mean) / scale for k in used]
    )
    routing = Routing(
        centroids,
        clusters.assignment[used],
        mean,
        scale,
        config.routing_temperature,
        active=np.ones(config.n_experts, dtype=bool),
        groups=tuple(clusters.groups[k] for k in used),
    )
    return routing, clusters.assignment[prototype]


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
