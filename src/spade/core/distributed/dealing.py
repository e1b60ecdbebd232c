"""Deal work to processes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def deal(loads: NDArray[np.integer], n: int) -> list[list[int]]:
    """Deal experts to ``n`` hands: the largest first, each to the hand with the least so far.

    >>> import numpy as np
    >>> deal(np.array([5, 0, 9, 4, 1]), 2)
    [[2, 4], [0, 3, 1]]
    """
    hands: list[list[int]] = [[] for _ in range(n)]
    held = [0] * n
    for expert in np.argsort(-loads, kind="stable").tolist():
        least = held.index(min(held))
        hands[least].append(expert)
        held[least] += int(loads[expert])
    return hands
