"""What the image shall predict: clusters of expression, of images or of labels, and programs of expression."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning

from spade.core.arrays import Floats, Rows
from spade.core.experts.clustering import kmeans
from spade.core.expression.activity import program_activity
from spade.core.rng import as_seed, numpy_stream
from spade.core.roles import TRAIN
from spade.models import ProgramConfig
from spade.models._rows import scale_by_section
from spade.tl._programs.rows import EXPRESSION, IMAGE, ProgramRows

#: Principal components that are clustered, clusterings of each number of clusters, and starts of each.
N_COMPONENTS, N_SEEDS, N_STARTS = 10, 3, 5
#: Genes that are chosen, and the share of the spots that they must occur in.
N_GENES, MIN_SHARE = 1_000, 0.1


@dataclass(frozen=True)
class Clusterings:
    """Cluster of every row in each clustering ``(n, n_clusterings)``, their numbers of clusters, and names of labels."""

    labels: Rows
    sizes: list[int]
    names: list[str]


def variable_columns(rows: ProgramRows) -> Rows:
    """Return the columns of the genes that vary most within sections, among those in a tenth of the training spots."""
    train = rows.role == TRAIN
    y = rows.expression[train]
    share = np.asarray((y > 0).mean(0)).ravel()
    squares = np.zeros(y.shape[1])
    for name in np.unique(rows.section[train]):
        part = y[rows.section[train] == name]
        mean = np.asarray(part.mean(0)).ravel()
        squares += np.asarray(part.multiply(part).sum(0)).ravel() - part.shape[0] * mean**2
    frequent = np.flatnonzero(share >= MIN_SHARE)
    if len(frequent) <= N_COMPONENTS:
        raise ValueError(
            f"genes=None: only {len(frequent)} genes of all samples are found in {MIN_SHARE:.0%} of the spots; name "
            "the genes with genes=."
        )
    return np.sort(frequent[np.argsort(-squares[frequent], kind="stable")[:N_GENES]])


def centred_expression(rows: ProgramRows) -> tuple[Floats, Floats]:
    """Return expression minus its mean over the training rows of each section, and the mean of these means.

    A section without training rows is centred by its validation rows.
    """
    y = rows.expression.toarray().astype(np.float64)
    means = []
    for name in np.unique(rows.section):
        inside = rows.section == name
        train = inside & (rows.role == TRAIN)
        mean = y[train if train.any() else inside].mean(0)
        y[inside] -= mean
        if train.any():
            means.append(mean)
    return y, np.mean(means, axis=0)


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
    labels, sizes = [], []
    for k in config.n_clusters:
        for seed in range(N_SEEDS):
            rng = numpy_stream(config.seed, f"{k} clusters", seed)
            centroids = kmeans(space[train], k, n_init=N_STARTS, rng=rng)[0].astype(np.float64)
            labels.append(np.argmin(np.square(centroids).sum(1) - 2 * space @ centroids.T, axis=1))
            sizes.append(k)
    return Clusterings(np.stack(labels, axis=1), sizes, [])


def cluster_means(rows: ProgramRows, found: Clusterings, centred: Floats) -> Floats:
    """Return the mean of the training rows of every cluster ``(K, G)``; 0 for a cluster without rows."""
    train = rows.role == TRAIN
    means = []
    for column, size in enumerate(found.sizes):
        member = (found.labels[train, column] == np.arange(size)[:, None]).astype(np.float64)
        means.append(member @ centred[train] / np.maximum(member.sum(1, keepdims=True), 1))
    return np.concatenate(means)


def _components(x: Floats, train: Rows) -> Floats:
    """Project all rows on the first principal components of the training rows."""
    centred = x - x[train].mean(0)
    wide = int(train.sum()) < x.shape[1]
    part = centred[train]
    vectors = np.linalg.eigh(part @ part.T if wide else part.T @ part)[1][:, : -N_COMPONENTS - 1 : -1]
    axes = part.T @ vectors if wide else vectors
    return centred @ (axes / np.maximum(np.linalg.norm(axes, axis=0), 1e-12))


def find_programs(rows: ProgramRows, config: ProgramConfig) -> tuple[Floats, Floats]:
    """Return loadings ``(P, G)`` of non-negative matrix factorisation, and activities ``(n, P)`` scaled by section."""
    if not config.n_programs:
        return np.zeros((0, rows.expression.shape[1])), np.zeros((len(rows.role), 0))
    y: csr_matrix = rows.expression.astype(np.float64)
    train = rows.role == TRAIN
    if config.n_programs > min(y.shape[1], int(train.sum())):
        raise ValueError(
            f"n_programs={config.n_programs}: more than the {int(train.sum())} spots or {y.shape[1]} genes there are."
        )
    state = as_seed(numpy_stream(config.seed, "programs")) % 2**32
    factors = NMF(config.n_programs, init="nndsvda", max_iter=400, random_state=state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        factors.fit(y[train])
    loadings = factors.components_
    loadings = loadings / np.maximum(np.linalg.norm(loadings, axis=1, keepdims=True), 1e-12)
    return loadings, scale_by_section(program_activity(y.toarray(), loadings), rows.section)
