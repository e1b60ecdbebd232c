"""Variance that clusters leave unexplained, by their number: what ``pl.choose_n_experts`` draws."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from spade._samples.collect import Collector
from spade._samples.features import read_features
from spade._samples.obs import group_labels
from spade._samples.open import Samples, iter_samples
from spade.core.arrays import Floats
from spade.core.experts.clustering import two_stage, within_squares
from spade.core.experts.routing import feature_scale
from spade.core.rng import numpy_stream

logger = logging.getLogger("spade")


@dataclass(frozen=True)
class ClusterCurve:
    """Numbers of clusters, and the sum of squares within them as a share of that of one cluster."""

    n_clusters: list[int]
    share: Floats


@dataclass(frozen=True)
class ClusterSweep:
    """Curves of both stages of :func:`~spade.tl.cluster_experts`.

    Attributes
    ----------
    prototypes
        Stage 1: one curve per group, over its spots.
    experts
        Stage 2: the curve over the prototypes of all groups.
    n_prototypes
        Prototypes of all groups together.
    """

    prototypes: dict[str, ClusterCurve]
    experts: ClusterCurve
    n_prototypes: int


def read_groups(
    samples: Samples, use_rep: str, groupby: str | None, max_spots: int, table_key: str | None, seed: int
) -> tuple[Floats, NDArray[np.str_]]:
    """Return valid features ``(n, d)`` and their groups, at most ``max_spots`` random rows of each group."""
    rows_of_all = Collector("the clustering", say=logger.info)
    for sample in iter_samples(samples, table_key=table_key):
        features = read_features(sample, use_rep)
        rows = np.flatnonzero(~np.isnan(features).any(1))
        labels = np.zeros(len(rows), dtype="U1") if groupby is None else group_labels(sample, groupby)[rows]
        rows_of_all.add(sample, rows, {use_rep: features[rows]}, group=labels)
        rows_of_all.skip("without features", len(features) - len(rows))
    joined, columns = rows_of_all.joined()
    x, groups = joined[use_rep], columns["group"]
    if not len(x):
        raise ValueError(f"use_rep={use_rep!r}: no sample has a valid row, because all patches are off their images.")
    stream = numpy_stream(seed, "spots to choose by")
    chosen = [stream.permutation(np.flatnonzero(groups == name))[:max_spots] for name in np.unique(groups)]
    rows = np.sort(np.concatenate(chosen))
    return x[rows], groups[rows]


def sweep_clusters(
    x: Floats, groups: NDArray[np.str_], counts: Sequence[int], *, n_prototypes: int, feature_scaling: str, seed: int
) -> ClusterSweep:
    """Cluster each group, and then the groups' prototypes together, into every number of clusters.

    Parameters
    ----------
    x
        Features ``(n, d)``, finite.
    groups
        Group of every row.
    counts
        Numbers of clusters; those above the number of rows (or prototypes) are left out.
    n_prototypes
        Prototypes per group for the second stage, at most the size of the smallest group.
    feature_scaling
        As in :func:`~spade.core.experts.routing.feature_scale`.
    seed
        Seed of all starts.
    """
    mean, scale = feature_scale(x, feature_scaling)
    names, sizes = np.unique(groups, return_counts=True)
    possible = {name: [k for k in counts if k <= n] for name, n in zip(names.tolist(), sizes.tolist(), strict=True)}
    prototypes = {}
    with tqdm(total=sum(map(len, possible.values())), desc="clustering", unit="k-means") as bar:
        for index, (name, numbers) in enumerate(possible.items()):
            rows = ((x[groups == name] - mean) / scale).astype(np.float32)
            share = within_squares(rows, numbers, numpy_stream(seed, "choice", index), lambda _: bar.update())
            prototypes[name] = ClusterCurve(numbers, share)
    n_prototypes = min(n_prototypes, int(sizes.min()))
    routing = two_stage(x, groups, n_prototypes=n_prototypes, n_experts=1, feature_scaling=feature_scaling, seed=seed)
    fine = routing.centroids.astype(np.float32)
    numbers = [k for k in counts if k <= len(fine)]
    experts = ClusterCurve(numbers, within_squares(fine, numbers, numpy_stream(seed, "choice of experts")))
    return ClusterSweep(prototypes, experts, len(fine))
