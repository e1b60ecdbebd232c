"""Training data of SEAL: images and expression of the same spots, dealt into batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from spade.core.arrays import Floats, Rows
from spade.core.patches.sources import PatchSource, batches


@dataclass(frozen=True)
class Pairs:
    """Images and expression of the same spots.

    Attributes
    ----------
    images
        Patches, or features ``(n, D)``.
    expression
        Log-normalised expression ``(n, G)``.
    section
        Number of the section of every row.
    role
        ``TRAIN``, ``VAL`` or ``NOT_USED`` for every row.
    names
        Names of the sections.
    """

    images: PatchSource | Floats
    expression: csr_matrix
    section: NDArray[np.int64]
    role: NDArray[np.int64]
    names: Sequence[str]

    def read_images(self, rows: Sequence[Rows], n_workers: int) -> Iterator[Tensor]:
        """Yield the images of each batch: uint8 ``(n, px, px, 3)``, or features."""
        if isinstance(self.images, np.ndarray):
            return (torch.from_numpy(self.images[batch].astype(np.float32)) for batch in rows)
        return (torch.from_numpy(pixels) for pixels in batches(self.images, rows, n_workers))


def n_batches(n_rows: int, batch_size: int) -> int:
    """Return the number of batches of nearly equal size; no batch has a single row, unless there is only one row."""
    return max(1, min(math.ceil(n_rows / batch_size), n_rows // 2))


def epoch_batches(
    rows: Rows, section: NDArray[np.int64], n: int, *, balance: bool, generator: np.random.Generator
) -> list[Rows]:
    """Deal rows into ``n`` batches of nearly equal size, in random order.

    With ``balance`` every batch has the same number of rows of every section, or one more of some. Rows of a small
    section then occur more than once in an epoch, and some rows of a large section do not occur.
    """
    if not balance:
        return np.array_split(generator.permutation(rows), n)
    names = np.unique(section[rows])
    size = len(rows) // n
    needed = math.ceil(n * size / len(names)) + n
    # each section is repeated in one order, so that a batch has no row twice if the section has enough rows
    pools = [np.resize(generator.permutation(rows[section[rows] == name]), needed) for name in names]
    taken, dealt = np.zeros(len(names), dtype=np.int64), []
    for i in range(n):
        counts = np.full(len(names), size // len(names))
        counts[(np.arange(size % len(names)) + i) % len(names)] += 1  # sections take turns with one more row
        dealt.append(np.concatenate([pool[t : t + c] for pool, t, c in zip(pools, taken, counts, strict=True)]))
        taken += counts
    return dealt
