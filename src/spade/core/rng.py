"""Random streams, one per seed, purpose and index, so that results do not depend on grouping or order."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def as_seed(rng: int | np.random.Generator) -> int:
    """Return the integer seed behind ``rng``; a generator is advanced once."""
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**63))
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool) and 0 <= rng < 2**63:
        return int(rng)
    raise TypeError(f"rng={rng!r:.100}: expected a non-negative int below 2**63 or a numpy.random.Generator.")


def _sequence(seed: int, purpose: str, index: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), index])


def numpy_stream(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """Return the numpy generator of one purpose."""
    return np.random.default_rng(_sequence(seed, purpose, index))


def seed_torch(seed: int, device: str = "cpu") -> None:
    """Seed torch's default generators of the CPU and of one device.

    Unlike ``torch.manual_seed``, it does not touch the generators of other devices.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if torch.device(device).type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def torch_stream(seed: int, purpose: str, index: int = 0, device: str = "cpu") -> torch.Generator:
    """Return the torch generator of one purpose; CPU and GPU generators draw different numbers."""
    import torch

    state = int(_sequence(seed, purpose, index).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator(device).manual_seed(state)
