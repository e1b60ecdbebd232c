"""k-means and the two-stage clustering that defines the experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spade.core.arrays import Floats, Rows
from spade.core.compiled import compiled
from spade.core.distributed.threads import Map, parallel_map
from spade.core.errors import warn
from spade.core.experts.routing import Routing, feature_scale
from spade.core.rng import numpy_stream

#: Rows at a time; on a CPU few enough to stay in its cache.
CHUNK, CHUNK_GPU = 1_024, 65_536
#: Parts that CPU threads work on side by side; a fixed number, so that sums do not depend on the number of threads.
N_PARTS = 64


class ScaledRows:
    """Some rows of features as ``(x − mean)/scale``, computed when they are read, so that no copy takes memory.

    Parameters
    ----------
    x
        Features ``(n, d)``; may be memory-mapped.
    rows
        Which rows.
    mean, scale
        ``(d,)``, as of :func:`~spade.core.experts.routing.feature_scale`.
    """

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, x: Floats, rows: Rows, mean: Floats, scale: Floats) -> None:
        self.x, self.rows, self.shape = x, rows, (len(rows), x.shape[1])
        self.mean, self.factor = mean.astype(np.float32), (1 / scale).astype(np.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: slice | int | Tensor) -> Tensor:
        """Return a row, or a matrix of several."""
        values = self.x[self.rows[chosen.numpy() if isinstance(chosen, Tensor) else chosen]]
        out = np.empty(values.shape, np.float32)
        np.subtract(values, self.mean, out=out, casting="unsafe")
        out *= self.factor
        return torch.from_numpy(out)

    def on(self, device: str) -> Tensor:
        """Return all rows as one tensor on a device."""
        whole = torch.empty(self.shape, device=device)
        for start in range(0, len(self), CHUNK_GPU):
            whole[start : start + CHUNK_GPU] = self[start : start + CHUNK_GPU].to(device)
        return whole


Points = Tensor | ScaledRows


def _parts(x: Points) -> list[slice]:
    n = min(N_PARTS, -(-len(x) // CHUNK)) if x.device.type == "cpu" else 1
    return [slice(i * len(x) // n, (i + 1) * len(x) // n) for i in range(n)]


def _chunks(x: Points, rows: slice) -> Iterator[slice]:
    size = CHUNK if x.device.type == "cpu" else CHUNK_GPU
    return (slice(start, min(start + size, rows.stop)) for start in range(rows.start, rows.stop, size))


def _distances_to(x: Points, point: Tensor, do: Map) -> Tensor:
    """Return the squared distance of every row to one point, exactly 0 for copies of the point."""
    distances = torch.empty(len(x), device=x.device)

    def work(rows: slice) -> None:
        for chunk in _chunks(x, rows):
            torch.sum((x[chunk] - point).square_(), 1, out=distances[chunk])

    list(do(work, _parts(x)))
    return distances


def _plus_plus(x: Points, k: int, rng: np.random.Generator, do: Map) -> Tensor:
    """Return k-means++ starts: each next centre is a point, drawn in proportion to its squared distance."""
    chosen = [int(rng.integers(len(x)))]
    closest = _distances_to(x, x[chosen[0]], do)
    for _ in range(k - 1):
        cumulative = torch.cumsum(closest.double(), 0)
        draw = rng.random() * float(cumulative[-1])
        chosen.append(min(int(torch.searchsorted(cumulative, draw, right=True)), len(x) - 1))
        closest = torch.minimum(closest, _distances_to(x, x[chosen[-1]], do))
    return x[torch.tensor(chosen)].clone()


@compiled()
def _move_rows(x, old, new, sums):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        if old[i] != new[i]:
            source, target = sums[old[i]], sums[new[i]]
            for j in range(x.shape[1]):
                source[j] -= x[i, j]
                target[j] += x[i, j]


def _move(x: Tensor, old: Tensor, new: Tensor, sums: Tensor) -> None:
    """Move the rows whose cluster changed from the sum of the old cluster to that of the new one."""
    if x.device.type == "cpu":
        _move_rows(x.numpy(), old.numpy(), new.numpy(), sums.numpy())
    else:
        _move_by_products(x, old, new, sums)


def _move_by_products(x: Tensor, old: Tensor, new: Tensor, sums: Tensor) -> None:
    """Do the same as :func:`_move` on a GPU: without a wait for the device, and always in the same order."""
    numbers = torch.arange(len(sums), device=x.device).unsqueeze(1)
    sums += ((new == numbers).to(x.dtype) - (old == numbers).to(x.dtype)) @ x


class _Assignment:
    """Nearest centroid of every row, the squared distance to it, and the sum of each cluster's rows in every part."""

    def __init__(self, x: Points, squares: Tensor, k: int, do: Map) -> None:
        self.x, self.squares, self.k, self.do, self.parts = x, squares, k, do, _parts(x)
        self.labels = torch.full((len(x),), k, device=x.device)  # k is no cluster; its sum comes last
        self.distances = torch.empty_like(squares)
        self.sums = torch.zeros(len(self.parts), k + 1, x.shape[1], dtype=torch.float64, device=x.device)

    def update(self, centroids: Tensor) -> bool:
        """Assign every row to its nearest centroid, in one pass over memory, and return whether any label changed."""
        previous, lengths = self.labels.clone(), centroids.square().sum(1)

        def work(rows: slice, sums: Tensor) -> None:
            for chunk in _chunks(self.x, rows):
                scores = torch.addmm(lengths, self.x[chunk], centroids.T, alpha=-2)
                torch.min(scores, 1, out=(self.distances[chunk], self.labels[chunk]))
                _move(self.x[chunk], previous[chunk], self.labels[chunk], sums)

        list(self.do(work, self.parts, self.sums))
        self.distances.add_(self.squares).clamp_min_(0)
        return not torch.equal(self.labels, previous)

    def means(self) -> Tensor:
        """Return the mean of every cluster; an empty one restarts at the point that is farthest from its centroid."""
        counts = torch.bincount(self.labels, minlength=self.k)
        centroids = (self.sums.sum(0)[: self.k] / counts.clamp_min(1).unsqueeze(1)).to(self.x.dtype)
        empty = torch.nonzero(counts == 0).flatten()
        if len(empty):
            centroids[empty] = self.x[torch.argsort(self.distances, descending=True, stable=True)[: len(empty)]]
        return centroids


def kmeans(
    x: Floats | ScaledRows,
    k: int,
    *,
    n_init: int = 5,
    max_iter: int = 50,
    rng: np.random.Generator,
    device: str = "cpu",
    starts: Floats | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64], float]:
    """Cluster points by Lloyd's k-means with k-means++ starts; deterministic for a given generator.

    The memory besides the points is a few numbers per point, and one per cluster for the points of a chunk.

    Parameters
    ----------
    x
        Points ``(n, d)``, finite, n ≥ k; float32 is not copied, nor are scaled rows on a CPU.
    k
        Number of clusters.
    n_init
        Number of starts; the result with the lowest inertia is kept.
    max_iter
        Iterations per start, fewer if no label changes any more.
    rng
        Generator of the starts.
    device
        Torch device. The points must fit into the memory of a GPU.
    starts
        Centroids ``(k, d)`` of a single start, instead of drawn ones.

    Returns
    -------
    Centroids ``(k, d)``, labels ``(n,)`` and the inertia (sum of squared distances).
    """
    if not 1 <= k <= len(x):
        raise ValueError(f"k={k}: expected a number from 1 to the number of points, {len(x)}.")
    points = _points(x, device)
    best: tuple[float, Tensor, Tensor] | None = None
    with parallel_map() if points.device.type == "cpu" else nullcontext(map) as do:
        squares = _distances_to(points, torch.zeros_like(points[0]), do)
        for _ in range(n_init if starts is None else 1):
            if starts is None:
                centroids = _plus_plus(points, k, rng, do)
            else:
                centroids = torch.from_numpy(np.ascontiguousarray(starts, dtype=np.float32)).to(device)
            assignment = _Assignment(points, squares, k, do)
            assignment.update(centroids)
            for _ in range(max_iter):
                centroids = assignment.means()
                if not assignment.update(centroids):
                    break
            inertia = float(assignment.distances.double().sum())
            if best is None or inertia < best[0]:
                best = (inertia, centroids, assignment.labels)
    inertia, centroids, labels = best  # type: ignore[misc]
    return centroids.cpu().numpy(), labels.cpu().numpy(), inertia


def _points(x: Floats | ScaledRows, device: str) -> Points:
    """Return the points on a device; scaled rows stay as they are on a CPU."""
    if not isinstance(x, ScaledRows):
        return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(device)
    return x if torch.device(device).type == "cpu" else x.on(device)


def within_squares(
    x: Floats, counts: Sequence[int], rng: np.random.Generator, progress: Callable[[int], None] | None = None
) -> NDArray[np.float64]:
    """Return the inertia of ``k`` clusters divided by that of one cluster, for every ``k`` of ``counts``."""
    of_one = float(np.square(x - x.mean(0, dtype=np.float64)).sum())
    shares = []
    for k in counts:
        shares.append(kmeans(x, k, rng=rng)[2] / of_one if of_one else 0.0)
        if progress is not None:
            progress(k)
    return np.array(shares)


def two_stage(
    x: Floats,
    groups: NDArray[np.str_] | None = None,
    *,
    rows: Rows | None = None,
    n_prototypes: int = 16,
    n_experts: int = 16,
    feature_scaling: str = "standard",
    temperature: float = 0.1,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> Routing:
    """Cluster features within each group, and then the centroids of all groups.

    Parameters
    ----------
    x
        Features ``(n, d)``, finite.
    groups
        Group of every row, such as its organ; None puts all rows into one group.
    rows
        Rows to cluster; None: all.
    n_prototypes
        Fine centroids per group. A group with fewer rows gets one per row, with a warning.
    n_experts
        Coarse clusters of all fine centroids.
    feature_scaling
        ``"standard"`` or ``"none"``, see :func:`~spade.core.experts.routing.feature_scale`.
    temperature
        τ_r of the routing.
    seed
        Seed of all starts.
    device
        Torch device of the k-means within groups.
    progress
        Called with the name of every group that has been clustered.

    Returns
    -------
    Routing
        Centroids in scaled coordinates and the expert of each.
    """
    rows = np.arange(len(x)) if rows is None else rows
    mean, scale = feature_scale(x, feature_scaling, rows)
    names = np.zeros(len(rows), dtype="U1") if groups is None else np.asarray(groups, dtype=str)[rows]
    centroids, owners = [], []
    for index, name in enumerate(np.unique(names).tolist()):
        of_group = ScaledRows(x, rows[names == name], mean, scale)
        k = n_prototypes
        if len(of_group) < k:
            k = len(of_group)
            warn(
                f"group {name!r} has fewer spots than n_prototypes={n_prototypes}: it gets one prototype per spot, {k}."
            )
        centroids.append(kmeans(of_group, k, rng=numpy_stream(seed, "prototypes", index), device=device)[0])
        owners += [name] * k
        if progress is not None:
            progress(name)
    fine = np.concatenate(centroids)
    if n_experts > len(fine):
        raise ValueError(
            f"n_experts={n_experts} is more than the number of prototypes, {len(fine)}: lower n_experts or raise "
            "n_prototypes."
        )
    assignment = kmeans(fine, n_experts, rng=numpy_stream(seed, "experts"))[1]
    return Routing(fine, assignment, mean, scale, temperature, groups=tuple(owners))
