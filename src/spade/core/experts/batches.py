"""Batches of several experts from contiguous arrays, without a Python loop over spots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from spade.core.arrays import Floats, Rows
from spade.core.compiled import compiled


class BatchSource(Protocol):
    """A source of batches of k experts, each with its own spots."""

    def batch(self, rows: Sequence[Rows]) -> tuple[Tensor, Tensor]:
        """Return features ``(k, B, D)`` and expression ``(k, B, G)`` of the ``rows`` of each expert.

        B is the largest number of rows; shorter batches are filled up with zeros.
        """


def _mean_and_factor(
    width: int, mean: Floats | None, deviation: Floats | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean and the factor, 1 / deviation, that scale features; 0 and 1 if they are None."""
    factor = np.ones(width) if deviation is None else 1 / np.asarray(deviation)
    return np.asarray(np.zeros(width) if mean is None else mean, np.float32), factor.astype(np.float32)


@compiled()
def _spread(indptr, indices, data, rows, out):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        out[i, :] = 0
        for j in range(indptr[rows[i]], indptr[rows[i] + 1]):
            out[i, indices[j]] = data[j]


class HostBatches:
    """Batches from memory or memory-mapped files, gathered in buffers that are reused.

    Parameters
    ----------
    features
        ``(n, D)`` float32 or float16; may be a memory map.
    expression
        ``(n, G)`` CSR.
    mean, deviation
        Features are scaled as ``(x - mean) / deviation``; None leaves them as they are.
    device
        Torch device of the batches.
    dtype
        Type of the batches.
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
        self.mean, self.factor = _mean_and_factor(features.shape[1], mean, deviation)
        self._image, self._spot = np.zeros((0, 0, 0), np.float32), np.zeros((0, 0, 0), np.float32)
        self._sent: list[Tensor] = []

    def batch(self, rows: Sequence[Rows]) -> tuple[Tensor, Tensor]:
        """Gather rows, scale features and make expression dense."""
        shape = len(rows), max(map(len, rows))
        if self._image.shape[:2] != shape:
            self._image, self._spot = (
                np.zeros((*shape, x.shape[1]), np.float32) for x in (self.features, self.expression)
            )
            self._sent = [torch.from_numpy(x).to(self.dtype) for x in (self._image, self._spot)]
        csr = self.expression
        for image, spot, of_expert in zip(self._image, self._spot, rows, strict=True):
            n = len(of_expert)
            np.subtract(self.features[of_expert], self.mean, out=image[:n], casting="unsafe")
            image[:n] *= self.factor
            _spread(csr.indptr, csr.indices, csr.data, of_expert, spot[:n])
            image[n:], spot[n:] = 0, 0
        if self.dtype != torch.float32:
            for sent, buffer in zip(self._sent, (self._image, self._spot), strict=True):
                sent.copy_(torch.from_numpy(buffer))
        return self._sent[0].to(self.device), self._sent[1].to(self.device)


class DeviceBatches:
    """Batches from arrays that the device holds completely; the same as :class:`HostBatches` without transfers."""

    def __init__(
        self,
        features: Floats,
        expression: csr_matrix,
        mean: Floats | None = None,
        deviation: Floats | None = None,
        device: str = "cuda",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device, self.dtype, self.n_genes = torch.device(device), dtype, expression.shape[1]
        self.features = torch.tensor(np.asarray(features), device=self.device)
        self.counts = np.diff(expression.indptr)
        self.indptr, self.indices = (
            torch.from_numpy(x.astype(np.int64)).to(self.device) for x in (expression.indptr, expression.indices)
        )
        self.data = torch.from_numpy(expression.data).to(self.device)
        scaling = _mean_and_factor(features.shape[1], mean, deviation)
        self.mean, self.factor = (torch.from_numpy(values).to(self.device) for values in scaling)

    @staticmethod
    def size(features: Floats, expression: csr_matrix) -> int:
        """Return the bytes that the arrays take on the device."""
        return features.nbytes + 8 * (len(expression.indptr) + expression.nnz) + expression.data.nbytes

    def batch(self, rows: Sequence[Rows]) -> tuple[Tensor, Tensor]:
        """Gather rows, scale features and make expression dense on the device."""
        k, size = len(rows), max(map(len, rows))
        padded = np.full((k, size), -1, np.int64)
        for place, of_expert in zip(padded, rows, strict=True):
            place[: len(of_expert)] = of_expert
        index = torch.from_numpy(padded).to(self.device).flatten()
        real = index >= 0
        index = index.clamp_min(0)
        image = (((self.features[index].float() - self.mean) * self.factor) * real.unsqueeze(1)).to(self.dtype)
        start, counts = self.indptr[index], (self.indptr[index + 1] - self.indptr[index]) * real
        n_values = int(sum(self.counts[of_expert].sum() for of_expert in rows))  # on the host: no wait for the device
        owner = torch.repeat_interleave(torch.arange(len(index), device=self.device), counts, output_size=n_values)
        within = torch.arange(len(owner), device=self.device) - (counts.cumsum(0) - counts)[owner]
        entries = start[owner] + within
        spot = torch.zeros(len(index), self.n_genes, device=self.device, dtype=self.dtype)
        spot[owner, self.indices[entries]] = self.data[entries].to(self.dtype)
        return image.view(k, size, -1), spot.view(k, size, -1)
