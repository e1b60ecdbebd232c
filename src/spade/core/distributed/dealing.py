"""Distribution of experts among processes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def deal(loads: NDArray[np.integer], n: int) -> list[list[int]]:
    """Deal experts to ``n`` processes: the largest first, each to the process with the least load so far.

    >>> import numpy as np
    >>> deal(np.array([5, 0, 9, 4, 1]), 2)
    [[2, 4], [0, 3, 1]]
    """
    shares: list[list[int]] = [[] for _ in range(n)]
    totals = [0] * n
    for expert in np.argsort(-loads, kind="stable").tolist():
        least = totals.index(min(totals))
        shares[least].append(expert)
        totals[least] += int(loads[expert])
    return shares
