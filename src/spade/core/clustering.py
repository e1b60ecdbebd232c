"""k-means and the two-stage clustering that defines the experts."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spade.core.routing import Floats, Routing, feature_scale
from spade.core.streams import numpy_stream

CHUNK = 65_536


def _nearest(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Index of and squared distance to the nearest centroid of every row."""
    squares = centroids.square().sum(1)
    labels, distances = [], []
    for block in x.split(CHUNK):
        value, label = torch.addmm(squares, block, centroids.T, alpha=-2).min(1)
        labels.append(label)
        distances.append((value + block.square().sum(1)).clamp_min_(0))
    return torch.cat(labels), torch.cat(distances)


def _plus_plus(x: Tensor, k: int, rng: np.random.Generator) -> Tensor:
    """k-means++ starts: each next centre is a point drawn with probability proportional to its squared distance."""
    chosen = [int(rng.integers(len(x)))]
    closest = (x - x[chosen[0]]).square().sum(1)
    for _ in range(k - 1):
        cumulative = torch.cumsum(closest.double(), 0)
        draw = rng.random() * float(cumulative[-1])
        chosen.append(min(int(torch.searchsorted(cumulative, draw, right=True)), len(x) - 1))
        closest = torch.minimum(closest, (x - x[chosen[-1]]).square().sum(1))
    return x[chosen].clone()


def _means(x: Tensor, labels: Tensor, distances: Tensor, k: int) -> Tensor:
    """Mean of every cluster; an empty one restarts at the point that is farthest from its centre."""
    counts = torch.bincount(labels, minlength=k)
    sums = torch.zeros(k, x.shape[1], dtype=torch.float64).index_add_(0, labels, x.double())
    centroids = (sums / counts.clamp_min(1).unsqueeze(1)).to(x.dtype)
    empty = torch.nonzero(counts == 0).flatten()
    if len(empty):
        centroids[empty] = x[torch.argsort(distances, descending=True, stable=True)[: len(empty)]]
    return centroids


def kmeans(
    x: Floats, k: int, *, n_init: int = 5, max_iter: int = 50, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64], float]:
    """Lloyd's k-means with k-means++ starts; deterministic for a given generator.

    Parameters
    ----------
    x
        Points ``(n, d)``, finite, n ≥ k.
    k
        Number of clusters.
    n_init
        Starts; the one with the lowest inertia is kept.
    max_iter
        Iterations per start; it stops early once no label changes.
    rng
        Generator of the starts.

    Returns
    -------
    Centroids ``(k, d)``, labels ``(n,)`` and the inertia (sum of squared distances).
    """
    if not 1 <= k <= len(x):
        raise ValueError(f"k={k}: expected a number from 1 to the number of points, {len(x)}.")
    points = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    best: tuple[float, Tensor, Tensor] | None = None
    for _ in range(n_init):
        centroids = _plus_plus(points, k, rng)
        labels, distances = _nearest(points, centroids)
        for _ in range(max_iter):
            centroids = _means(points, labels, distances, k)
            previous = labels
            labels, distances = _nearest(points, centroids)
            if torch.equal(labels, previous):
                break
        inertia = float(distances.double().sum())
        if best is None or inertia < best[0]:
            best = (inertia, centroids, labels)
    inertia, centroids, labels = best  # type: ignore[misc]
    return centroids.numpy(), labels.numpy(), inertia


def two_stage(
    x: Floats,
    groups: NDArray[np.str_] | None = None,
    *,
    n_prototypes: int = 16,
    n_experts: int = 16,
    feature_scaling: str = "standard",
    temperature: float = 0.1,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Routing:
    """Cluster features within each group, then the groups' centroids together.

    Parameters
    ----------
    x
        Features ``(n, d)``, finite.
    groups
        Group (organ, say) of every row; one group if None.
    n_prototypes
        Fine centroids per group; a group with fewer rows gets one per row, with a warning.
    n_experts
        Coarse clusters over all fine centroids.
    feature_scaling
        ``"standard"`` or ``"none"``, see :func:`~spade.core.routing.feature_scale`.
    temperature
        τ_r of the routing.
    seed
        Seed of all starts.
    progress
        Called with each group's name once it is clustered.

    Returns
    -------
    Routing
        Centroids in scaled coordinates and the expert of each.
    """
    mean, scale = feature_scale(x, feature_scaling)
    scaled = ((x - mean) / scale).astype(np.float32)
    names = np.zeros(len(x), dtype="U1") if groups is None else np.asarray(groups, dtype=str)
    centroids, owners = [], []
    for index, name in enumerate(np.unique(names).tolist()):
        rows = scaled[names == name]
        k = n_prototypes
        if len(rows) < k:
            warnings.warn(
                f"group {name!r} has {len(rows)} spots, fewer than n_prototypes={k}: it gets {len(rows)} prototypes.",
                stacklevel=3,
            )
            k = len(rows)
        centroids.append(kmeans(rows, k, rng=numpy_stream(seed, "prototypes", index))[0])
        owners += [name] * k
        if progress is not None:
            progress(name)
    fine = np.concatenate(centroids)
    if n_experts > len(fine):
        raise ValueError(
            f"n_experts={n_experts} is more than the {len(fine)} prototypes there are: "
            "lower n_experts or raise n_prototypes."
        )
    assignment = kmeans(fine, n_experts, rng=numpy_stream(seed, "experts"))[1]
    return Routing(fine, assignment, mean, scale, temperature, groups=tuple(owners))
