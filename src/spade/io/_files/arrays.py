"""Arrays in ``.npy`` files of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spade.io._bytes import check_file
from spade.io._files.damaged import damaged, reading


def read_npy(path: Path, argument: str) -> NDArray[np.generic]:
    """Return the numbers in a ``.npy`` file, whose size must be what its header says."""
    check_file(path, argument)
    with reading(path, "a .npy file of numbers", argument):  # mapped, so a wrong size is found before it is allocated
        array = np.lib.format.open_memmap(path, mode="r")
        if array.dtype.kind not in "biuf":
            raise damaged(path, "a .npy file of numbers", f"its type is {array.dtype}", argument)
        return np.array(array)
