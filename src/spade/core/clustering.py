"""k-means and the two-stage clustering that defines the experts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spade.core.routing import Floats, Routing, feature_scale
from spade.core.streams import numpy_stream

#: Rows that are worked on in one go.
CHUNK = 65_536
#: Parts that are summed side by side; a fixed number, so that the sums do not depend on the number of threads.
PARTS = 16


def _distances_to(x: Tensor, point: Tensor) -> Tensor:
    """Squared distance of every row to one point, exactly 0 for its copies."""
    return torch.cat([(block - point).square_().sum(1) for block in x.split(CHUNK)])


def _plus_plus(x: Tensor, k: int, rng: np.random.Generator) -> Tensor:
    """k-means++ starts: each next centre is a point drawn with probability proportional to its squared distance."""
    chosen = [int(rng.integers(len(x)))]
    closest = _distances_to(x, x[chosen[0]])
    for _ in range(k - 1):
        cumulative = torch.cumsum(closest.double(), 0)
        draw = rng.random() * float(cumulative[-1])
        chosen.append(min(int(torch.searchsorted(cumulative, draw, right=True)), len(x) - 1))
        closest = torch.minimum(closest, _distances_to(x, x[chosen[-1]]))
    return x[chosen].clone()


def _assign(x: Tensor, squares: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centroid of every row and the squared distance to it; ``squares`` are the rows' own squared lengths."""
    lengths = centroids.square().sum(1)
    found = [torch.addmm(lengths, block, centroids.T, alpha=-2).min(1) for block in x.split(CHUNK)]
    distances = torch.cat([value for value, _ in found]).add_(squares).clamp_min_(0)
    return torch.cat([label for _, label in found]), distances


@numba.njit(cache=True, parallel=True, nogil=True)
def _add_rows(x, labels, k, n_parts):  # type: ignore[no-untyped-def]
    sums = np.zeros((n_parts, k, x.shape[1]))
    for part in numba.prange(n_parts):
        for i in range(part * len(x) // n_parts, (part + 1) * len(x) // n_parts):
            own = sums[part, labels[i]]
            for j in range(x.shape[1]):
                own[j] += x[i, j]
    return sums


def _sums(x: Tensor, labels: Tensor, k: int) -> Tensor:
    """Sums of the rows of each cluster, in double precision."""
    if x.device.type == "cpu":
        return torch.from_numpy(_add_rows(x.numpy(), labels.numpy(), k, PARTS).sum(0))
    return _sums_by_products(x, labels, k)


def _sums_by_products(x: Tensor, labels: Tensor, k: int) -> Tensor:
    """As :func:`_sums`, as a GPU does it best and always alike: by products with the membership."""
    sums = torch.zeros(k, x.shape[1], dtype=torch.float64, device=x.device)
    for block, own in zip(x.split(CHUNK), labels.split(CHUNK), strict=True):
        sums += ((own == torch.arange(k, device=x.device).unsqueeze(1)).to(x.dtype) @ block).double()
    return sums


def _means(x: Tensor, labels: Tensor, distances: Tensor, k: int) -> Tensor:
    """Mean of every cluster; an empty one restarts at the point that is farthest from its centre."""
    counts, sums = torch.bincount(labels, minlength=k), _sums(x, labels, k)
    centroids = (sums / counts.clamp_min(1).unsqueeze(1)).to(x.dtype)
    empty = torch.nonzero(counts == 0).flatten()
    if len(empty):
        centroids[empty] = x[torch.argsort(distances, descending=True, stable=True)[: len(empty)]]
    return centroids


def kmeans(
    x: Floats,
    k: int,
    *,
    n_init: int = 5,
    max_iter: int = 50,
    rng: np.random.Generator,
    device: str = "cpu",
    starts: Floats | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64], float]:
    """Lloyd's k-means with k-means++ starts; deterministic for a given generator.

    Memory beyond the points is a few numbers per point and cluster of a chunk.

    Parameters
    ----------
    x
        Points ``(n, d)``, finite, n ≥ k; float32 is used as it is.
    k
        Number of clusters.
    n_init
        Starts; the one with the lowest inertia is kept.
    max_iter
        Iterations per start; it stops early once no label changes.
    rng
        Generator of the starts.
    device
        Torch device; on a GPU the points must fit into its memory.
    starts
        Centroids ``(k, d)`` to start from, once, in place of drawn ones.

    Returns
    -------
    Centroids ``(k, d)``, labels ``(n,)`` and the inertia (sum of squared distances).
    """
    if not 1 <= k <= len(x):
        raise ValueError(f"k={k}: expected a number from 1 to the number of points, {len(x)}.")
    points = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(device)
    squares = torch.cat([block.square().sum(1) for block in points.split(CHUNK)])
    best: tuple[float, Tensor, Tensor] | None = None
    for _ in range(n_init if starts is None else 1):
        if starts is None:
            centroids = _plus_plus(points, k, rng)
        else:
            centroids = torch.from_numpy(np.ascontiguousarray(starts, dtype=np.float32)).to(device)
        labels, distances = _assign(points, squares, centroids)
        for _ in range(max_iter):
            centroids = _means(points, labels, distances, k)
            previous = labels
            labels, distances = _assign(points, squares, centroids)
            if torch.equal(labels, previous):
                break
        inertia = float(distances.double().sum())
        if best is None or inertia < best[0]:
            best = (inertia, centroids, labels)
    inertia, centroids, labels = best  # type: ignore[misc]
    return centroids.cpu().numpy(), labels.cpu().numpy(), inertia


def within_squares(
    x: Floats, counts: Sequence[int], rng: np.random.Generator, progress: Callable[[int], None] | None = None
) -> NDArray[np.float64]:
    """Sum of squared distances within ``k`` clusters for every ``k`` of ``counts``, divided by that of one cluster."""
    whole = float(np.square(x - x.mean(0, dtype=np.float64)).sum())
    found = []
    for k in counts:
        found.append(kmeans(x, k, rng=rng)[2] / whole if whole else 0.0)
        if progress is not None:
            progress(k)
    return np.array(found)


def two_stage(
    x: Floats,
    groups: NDArray[np.str_] | None = None,
    *,
    n_prototypes: int = 16,
    n_experts: int = 16,
    feature_scaling: str = "standard",
    temperature: float = 0.1,
    seed: int = 0,
    device: str = "cpu",
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
    device
        Torch device of the k-means.
    progress
        Called with each group's name once it is clustered.

    Returns
    -------
    Routing
        Centroids in scaled coordinates and the expert of each.
    """
    mean, scale = feature_scale(x, feature_scaling)
    names = np.zeros(len(x), dtype="U1") if groups is None else np.asarray(groups, dtype=str)
    centroids, owners = [], []
    for index, name in enumerate(np.unique(names).tolist()):
        rows = _scaled(x, np.flatnonzero(names == name), mean, scale)
        k = n_prototypes
        if len(rows) < k:
            warnings.warn(
                f"group {name!r} has {len(rows)} spots, fewer than n_prototypes={k}: it gets {len(rows)} prototypes.",
                stacklevel=3,
            )
            k = len(rows)
        centroids.append(kmeans(rows, k, rng=numpy_stream(seed, "prototypes", index), device=device)[0])
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


def _scaled(x: Floats, rows: NDArray[np.integer], mean: Floats, scale: Floats) -> NDArray[np.float32]:
    """Scale some rows, piece by piece, so that nothing but the result takes memory."""
    out = np.empty((len(rows), x.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), CHUNK):
        out[start : start + CHUNK] = (x[rows[start : start + CHUNK]] - mean) / scale
    return out
