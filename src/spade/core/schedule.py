"""The learning-rate schedule of SPADE and SEAL."""

from __future__ import annotations

import math


def cosine(step: int, n_steps: int) -> float:
    """Return the factor of the learning rate at ``step``, which falls from 1 at the first step to 0 after the last."""
    return 0.5 * (1 + math.cos(math.pi * step / n_steps))
