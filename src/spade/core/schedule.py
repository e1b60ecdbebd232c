"""The learning-rate schedule of both methods."""

from __future__ import annotations

import math


def cosine(step: int, n_steps: int) -> float:
    """Factor of the learning rate at ``step``: from 1 at the first step towards 0 after the last."""
    return 0.5 * (1 + math.cos(math.pi * step / n_steps))
