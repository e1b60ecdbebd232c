"""Routing: prototypes, the experts that they belong to, and the weights of experts from distances or a learned gate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from spade.core.arrays import Floats, Rows, scale_of
from spade.core.checks import check_choice, check_positive

#: Rows at a time: few enough to stay in the cache of a processor.
CHUNK = 2_048
FEATURE_SCALINGS = ("standard", "none")


def feature_scale(x: Floats, feature_scaling: str, rows: Rows | None = None) -> tuple[Floats, Floats]:
    """Return the mean and scale ``(d,)`` of features for distances, which are taken between ``(x - mean) / scale``.

    ``"standard"``: mean and deviation over the rows of ``x``, or some of them (1 for a constant feature). The deviation
    is multiplied by √d, so that distances, and with them the routing temperature, mean the same for any width.
    ``"none"``: 0 and 1.
    """
    d = x.shape[1]
    if check_choice("feature_scaling", feature_scaling, FEATURE_SCALINGS) == "none":
        return np.zeros(d), np.ones(d)
    n = len(x) if rows is None else len(rows)
    chunks = [slice(start, start + CHUNK) for start in range(0, n, CHUNK)]

    def read(chunk: slice) -> Floats:
        return x[chunk if rows is None else rows[chunk]]

    mean = sum(read(chunk).sum(0, dtype=np.float64) for chunk in chunks) / n
    deviation = scale_of(mean, sum(np.square(read(chunk) - mean).sum(0) for chunk in chunks) / n)
    return mean, deviation * np.sqrt(d)


@dataclass(frozen=True)
class Routing:
    """Prototypes, the fine centroids of a clustering, each of which belongs to an expert.

    Attributes
    ----------
    centroids
        Prototypes ``(K, d)`` in scaled coordinates.
    assignment
        Expert of each prototype ``(K,)``.
    mean, scale
        Mean and scale of features ``(d,)``: the scaled coordinates of a point are ``(x - mean) / scale``.
    temperature
        τ_r of the softmax over distances.
    active
        Mask ``(E,)`` of the experts that may be used, all by default; experts without training spots are not active.
    groups
        Group of spots, such as an organ, in which each prototype was found.
    settings
        Known settings of the clustering and of its features, under the names that a model has for them.
    gate
        Weights ``(d, E)`` of a classifier of scaled coordinates: with it, the weights of experts are the softmax of its
        logits, whatever the distances to prototypes.
    gate_bias
        Bias ``(E,)`` of the classifier.
    """

    centroids: Floats
    assignment: NDArray[np.integer]
    mean: Floats
    scale: Floats
    temperature: float = 0.1
    active: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    groups: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    gate: NDArray[np.floating] | None = None
    gate_bias: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        """Check all shapes, and set ``active`` if it was not given."""
        k, d = np.shape(self.centroids)
        if np.shape(self.assignment) != (k,):
            raise ValueError(f"assignment has shape {np.shape(self.assignment)}; {k} centroids need ({k},).")
        if np.min(self.assignment) < 0:
            raise ValueError("assignment has negative numbers; experts are numbered from 0.")
        if np.shape(self.mean) != (d,) or np.shape(self.scale) != (d,):
            raise ValueError(f"mean {np.shape(self.mean)} and scale {np.shape(self.scale)} must both be ({d},).")
        check_positive("routing_temperature", self.temperature)
        if not len(self.active):
            object.__setattr__(self, "active", np.ones(int(np.max(self.assignment)) + 1, dtype=bool))
        shapes = [None if array is None else array.shape for array in (self.gate, self.gate_bias)]
        if shapes not in ([None, None], [(d, self.n_experts), (self.n_experts,)]):
            raise ValueError(f"gate and gate_bias have shapes {shapes}, for {d} features and {self.n_experts} experts.")

    def __repr__(self) -> str:
        groups = sorted(set(self.groups))
        within = f" of {len(groups)} groups" if len(groups) > 1 else ""
        way = f"distances, temperature {self.temperature:g}" if self.gate is None else "a learned gate"
        prototypes = f"{self.n_prototypes} prototypes{within}"
        return f"Routing: {self.n_features} features -> {prototypes} -> {self.n_experts} experts, by {way}"

    @property
    def n_prototypes(self) -> int:
        """Number of fine centroids."""
        return len(self.centroids)

    @property
    def n_experts(self) -> int:
        """Number of experts."""
        return len(self.active)

    @property
    def n_features(self) -> int:
        """Width of the features."""
        return self.centroids.shape[1]

    def logits(self, x: Floats) -> Floats:
        """Return the logits ``(n, E)`` of a learned gate; rows with NaN give NaN."""
        if self.gate is None or self.gate_bias is None:
            raise ValueError("this routing goes by distances to prototypes and has no gate, so there are no logits.")
        logits = np.empty((len(x), self.n_experts))
        for rows, scaled in self._scaled(x):
            logits[rows] = scaled @ self.gate + self.gate_bias
        return logits

    def distances(self, x: Floats) -> Floats:
        """Return Euclidean distances ``(n, K)`` in scaled coordinates; rows with NaN give NaN."""
        return np.concatenate([np.empty((0, self.n_prototypes)), *(block for _, block in self._distances(x))])

    def _scaled(self, x: Floats) -> Iterator[tuple[slice, Floats]]:
        """Yield chunks of rows in scaled coordinates."""
        if x.ndim != 2 or x.shape[1] != self.n_features:
            raise ValueError(f"features have shape {x.shape}; this routing was made on width {self.n_features}.")
        for start in range(0, len(x), CHUNK):
            rows = slice(start, start + CHUNK)
            yield rows, (x[rows] - self.mean) / self.scale

    def _distances(self, x: Floats) -> Iterator[tuple[slice, Floats]]:
        """Yield chunks of rows with their distances."""
        centroids = self.centroids.astype(np.float64)
        squares = np.sum(centroids**2, axis=1)
        for rows, scaled in self._scaled(x):
            square = np.sum(scaled**2, axis=1)[:, None] - 2 * scaled @ centroids.T + squares
            yield rows, np.sqrt(np.maximum(square, 0))

    def assign(self, x: Floats) -> NDArray[np.int64]:
        """Return the nearest prototype of every row, −1 for rows with NaN."""
        nearest = np.empty(len(x), dtype=np.int64)
        for rows, distances in self._distances(x):
            usable = ~np.isnan(distances).any(1)
            nearest[rows] = np.where(usable, np.argmin(np.nan_to_num(distances, nan=np.inf), axis=1), -1)
        return nearest

    def nearest_distance(self, x: Floats) -> Floats:
        """Return the distances ``(n,)`` to the nearest prototype of an active expert; rows with NaN give NaN.

        Distances are in scaled coordinates.
        """
        usable = self.active[self.assignment]
        nearest = np.empty(len(x))
        for rows, distances in self._distances(x):
            nearest[rows] = distances[:, usable].min(1)
        return nearest

    def expert_of(self, x: Floats) -> NDArray[np.int64]:
        """Return the expert of every row: of its nearest prototype, or with the largest logit; rows have no NaN."""
        if self.gate is None:
            return np.asarray(self.assignment[self.assign(x)], dtype=np.int64)
        return np.argmax(np.where(self.active, self.logits(x), -np.inf), axis=1)

    def weights(self, x: Floats) -> Floats:
        """Return expert weights ``(n, E)``: softmax over −distance/τ_r, summed over the prototypes of each expert.

        With a learned gate: softmax over its logits.
        """
        if self.gate is not None:
            return softmax(np.where(self.active, self.logits(x), -np.inf), axis=1)
        usable = self.active[self.assignment]
        members = (self.assignment[usable][:, None] == np.arange(self.n_experts)).astype(np.float64)
        weights = np.empty((len(x), self.n_experts))
        for rows, distances in self._distances(x):
            weights[rows] = softmax(-distances[:, usable] / self.temperature, axis=1) @ members
        return weights


def routing_entropy(weights: Floats) -> Floats:
    """Return the Shannon entropy (nats) of every row of weights ``(n, E)``; 0 is a hard choice, log E is uniform."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(weights > 0, weights * np.log(weights), np.where(np.isnan(weights), np.nan, 0.0))
    return np.maximum(-terms.sum(axis=1), 0)
