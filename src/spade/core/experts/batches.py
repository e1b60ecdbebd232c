"""Batches of several experts from contiguous arrays, without Python work per spot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from spade.core.arrays import Floats

Rows = NDArray[np.integer]


class BatchSource(Protocol):
    """Gives batches: row ``i`` of the result holds the spots of expert ``i``, filled up with zeros."""

    def batch(self, rows: Sequence[Rows]) -> tuple[Tensor, Tensor]:
        """Return features ``(k, B, D)`` and expression ``(k, B, G)``, B the largest number of rows."""


@numba.njit(cache=True, nogil=True)
def _spread(indptr, indices, data, rows, out):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        out[i, :] = 0
        for j in range(indptr[rows[i]], indptr[rows[i] + 1]):
            out[i, indices[j]] = data[j]


class HostBatches:
    """Batches from memory or memory-mapped files, made in buffers that are used again.

    Parameters
    ----------
    features
        ``(n, D)`` float32 or float16; may be a memory map.
    expression
        ``(n, G)`` CSR.
    mean, deviation
        Features are fed as ``(x - mean) / deviation``; None: as they are.
    device
        Where batches go.
    dtype
        Type of batches.
    """

    def __init__(
        self,
        features: Floats,
        expression: csr_matrix,
        mean: Floats | None = None,
        deviation: Floats | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.features, self.expression, self.device, self.dtype = features, expression, torch.device(device), dtype
        width = features.shape[1]
        self.mean = np.zeros(width, np.float32) if mean is None else np.asarray(mean, np.float32)
        self.factor = (
            np.ones(width, np.float32) if deviation is None else (1 / np.asarray(deviation)).astype(np.float32)
        )
        self._image, self._spot = np.zeros((0, 0, 0), np.float32), np.zeros((0, 0, 0), np.float32)
        self._sent: list[Tensor] = []

    def batch(self, rows: Sequence[Rows]) -> tuple[Tensor, Tensor]:
        """Gather, scale and spread out."""
        shape = len(rows), max(map(len, rows))
        if self._image.shape[:2] != shape:
            self._image, self._spot = (
                np.zeros((*shape, x.shape[1]), np.float32) for x in (self.features, self.expression)
            )
            self._sent = [torch.from_numpy(x).to(self.dtype) for x in (self._image, self._spot)]
        csr = self.expression
        for image, spot, own in zip(self._image, self._spot, rows, strict=True):
            n = len(own)
            np.subtract(self.features[own], self.mean, out=image[:n], casting="unsafe")
            image[:n] *= self.factor
            _spread(csr.indptr, csr.indices, csr.data, own, spot[:n])
            image[n:], spot[n:] = 0, 0
        if self.dtype != torch.float32:
            for sent, made in zip(self._sent, (self._image, self._spot), strict=True):
                sent.copy_(torch.from_numpy(made))
        return self._sent[0].to(self.device), self._sent[1].to(self.device)


class DeviceBatches:
    """Batches from arrays that live on the device as a whole; as :class:`HostBatches`, without traffic per batch."""

    def __init__(
        self,
        features: Floats,
        expression: csr_matrix,
        mean: Floats | None = None,
        deviation: Floats | None = None,
        device: str = "cuda",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        width = features.shape[1]
        self.device, self.dtype, self.n_genes = torch.device(device), dtype, expression.shape[1]
        self.features = torch.tensor(np.asarray(features), device=self.device)
        self.counts = np.diff(expression.indptr)
        self.indptr, self.indices = (
            torch.from_numpy(x.astype(np.int64)).to(self.device) for x in (expression.indptr, expression.indices)
        )
        self.data = torch.from_numpy(expression.data).to(self.device)
        self.mean = torch.zeros(width) if mean is None else torch.from_numpy(np.asarray(mean, np.float32))
        factor = np.ones(width) if deviation is None else 1 / np.asarray(deviation)
        self.factor = torch.from_numpy(factor.astype(np.float32)).to(self.device)
        self.mean = self.mean.to(self.device)

    @staticmethod
    def size(features: Floats, expression: csr_matrix) -> int:
        """Bytes that the arrays take on the device."""
        return features.nbytes + 8 * (len(expression.indptr) + expression.nnz) + expression.data.nbytes

    def batch(self, rows: Sequence[Rows]) -> tuple[Tensor, Tensor]:
        """Gather, scale and spread out on the device."""
        k, size = len(rows), max(map(len, rows))
        padded = np.full((k, size), -1, np.int64)
        for place, own in zip(padded, rows, strict=True):
            place[: len(own)] = own
        index = torch.from_numpy(padded).to(self.device).flatten()
        real = index >= 0
        index = index.clamp_min(0)
        image = (((self.features[index].float() - self.mean) * self.factor) * real.unsqueeze(1)).to(self.dtype)
        start, counts = self.indptr[index], (self.indptr[index + 1] - self.indptr[index]) * real
        filled = int(sum(self.counts[own].sum() for own in rows))  # known here, so that nothing waits for the device
        owner = torch.repeat_interleave(torch.arange(len(index), device=self.device), counts, output_size=filled)
        within = torch.arange(len(owner), device=self.device) - (counts.cumsum(0) - counts)[owner]
        entries = start[owner] + within
        spot = torch.zeros(len(index), self.n_genes, device=self.device, dtype=self.dtype)
        spot[owner, self.indices[entries]] = self.data[entries].to(self.dtype)
        return image.view(k, size, -1), spot.view(k, size, -1)
