"""Which tiles are in focus and not blank, by their pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tqdm.auto import tqdm

from spade.core.arrays import Floats
from spade.core.patches.quality import blank_share, sharpness
from spade.core.patches.tiles import Level, Pixels, iter_patches

#: Tiles that are read at a time.
BATCH = 64
MEASURES: dict[str, Callable[[Pixels], Floats]] = {"blank_share": blank_share, "sharpness": sharpness}


def tile_quality(
    name: str, levels: list[Level], centres: Floats, side: float, size_px: int, wanted: list[str]
) -> dict[str, Floats]:
    """Return the wanted of :data:`MEASURES` for tiles of a slide at their resolution; no tile is read if none is.

    ``centres`` are (x, y), and ``side`` is the side of a tile, in pixels of the finest level.
    """
    measured: dict[str, Floats] = {measure: np.empty(len(centres)) for measure in wanted}
    if not measured:
        return measured
    with tqdm(total=len(centres), desc=f"quality: {name}", unit="tile") as bar:
        for index, patches in iter_patches(levels, centres[:, ::-1], side, size_px, BATCH):
            for measure, values in measured.items():
                values[index] = MEASURES[measure](patches)
            bar.update(len(index))
    return measured
