"""Types and values of arrays that all of core shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Rows = NDArray[np.int64]
#: Score of rows that only fill up a batch; finite, as 0 times it must be 0.
FAR = -1e30
