"""Clusters of expression, of images or of labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats, Rows
from spade.core.experts.clustering import kmeans
from spade.core.rng import numpy_stream
from spade.core.roles import TRAIN
from spade.models import ProgramConfig
from spade.tl._programs.rows import EXPRESSION, IMAGE, ProgramRows

#: Principal components that are clustered, clusterings of each number of clusters, and starts of each.
N_COMPONENTS, N_SEEDS, N_STARTS = 10, 3, 5


@dataclass(frozen=True)
class Clusterings:
    """Cluster of every row in each clustering ``(n, n_clusterings)``, sizes of the clusterings, and names of labels."""

    labels: Rows
    sizes: list[int]
    names: list[str]


def find_clusterings(rows: ProgramRows, config: ProgramConfig, centred: Floats) -> Clusterings:
    """Cluster principal components of the training rows; other rows belong to the nearest centroid.

    With an ``obs`` column as target, its classes are the only clustering.
    """
    train = rows.role == TRAIN
    if config.targets not in (EXPRESSION, IMAGE):
        names, labels = np.unique(rows.groups, return_inverse=True)
        if len(names) < 2:
            raise ValueError(f"targets={config.targets!r}: all labels are {names[0]!r}; expected at least two classes.")
        return Clusterings(labels.reshape(-1, 1), [len(names)], names.tolist())
    if max(config.n_clusters) >= train.sum():
        raise ValueError(f"n_clusters={config.n_clusters}: there are only {int(train.sum())} spots to train on.")
    space = _components(rows.images if config.targets == IMAGE else centred, train)
    columns: list[Rows] = []
    for k in config.n_clusters:
        for seed in range(N_SEEDS):
            rng = numpy_stream(config.seed, f"{k} clusters", seed)
            centroids = kmeans(space[train], k, n_init=N_STARTS, rng=rng)[0].astype(np.float64)
            columns.append(np.argmin(np.square(centroids).sum(1) - 2 * space @ centroids.T, axis=1))
    return Clusterings(np.stack(columns, axis=1), np.repeat(config.n_clusters, N_SEEDS).tolist(), [])


def cluster_means(rows: ProgramRows, found: Clusterings, centred: Floats) -> Floats:
    """Return the mean of the training rows of every cluster ``(K, G)``; 0 for a cluster without rows."""
    train = rows.role == TRAIN
    means = []
    for column, size in enumerate(found.sizes):
        member = (found.labels[train, column] == np.arange(size)[:, None]).astype(np.float64)
        means.append(member @ centred[train] / np.maximum(member.sum(1, keepdims=True), 1))
    return np.concatenate(means)


def _components(x: Floats, train: NDArray[np.bool_]) -> Floats:
    """Project all rows on the first principal components of the training rows."""
    centred = x - x[train].mean(0)
    wide = int(train.sum()) < x.shape[1]
    part = centred[train]
    vectors = np.linalg.eigh(part @ part.T if wide else part.T @ part)[1][:, : -N_COMPONENTS - 1 : -1]
    axes = part.T @ vectors if wide else vectors
    return centred @ (axes / np.maximum(np.linalg.norm(axes, axis=0), 1e-12))
