"""One slide from its file to pixels of tiles, by spade or by LazySlide; run by the Python that has the library.

``python _slide_roads.py LIBRARY SLIDE N_PATCHES`` prints seconds, CPU seconds and counts as JSON.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
import time
import warnings

from _memory import peak_mib

SIZE_PX, LEAST_TISSUE = 224, 0.5
#: µm/px of the tiles: those of the slide, and coarser ones; LazySlide enlarges no pixels.
SCALES = (0.69, 1.0)


class Clock:
    """Wall and CPU seconds of every step, and how many tiles it made or read."""

    def __init__(self):
        self.seconds, self.tiles = {}, {}

    def step(self, name, run, count=None):
        wall, cpu = time.perf_counter(), time.process_time()
        result = run()
        self.seconds[name] = [time.perf_counter() - wall, time.process_time() - cpu]
        if count is not None:
            self.tiles[name] = count(result)
        return result


def spade(path, n_patches):
    import numpy as np

    import spade as sp
    from spade._samples.encode import placed_sections
    from spade._samples.open import iter_samples
    from spade.core.patches.tiles import iter_patches
    from spade.encoders import get

    clock = Clock()
    sdata = clock.step("open", lambda: sp.io.read_wsi(path))
    clock.step("tissue", lambda: sp.pp.tissue(sdata))
    for mpp in SCALES:
        options = {"size_um": SIZE_PX * mpp, "size_px": SIZE_PX, "min_tissue": LEAST_TISSUE}
        clock.step(
            f"tiles, {mpp} µm/px", lambda options=options: sp.pp.tiles(sdata, **options), lambda _: len(sdata["tiles"])
        )
        ((_, placed),) = placed_sections(next(iter(iter_samples(sdata))), "patches")

        def read(placed=placed):
            centres = placed.centres[:n_patches]
            batches = iter_patches(placed.levels, centres, placed.px_per_patch, SIZE_PX, 64)
            return np.concatenate([batch for _, batch in batches])

        patches = clock.step(f"reading, {mpp} µm/px", read, len)
    texture = get("texture")
    texture.encode(patches[:8], mpp)
    clock.step("texture features", lambda: texture.encode(patches, mpp), len)
    return clock


def lazyslide(path, n_patches):
    import lazyslide as zs
    from wsidata import open_wsi

    clock = Clock()
    wsi = clock.step("open", lambda: open_wsi(path, store=None))
    clock.step("tissue", lambda: zs.pp.find_tissues(wsi))
    for mpp in SCALES:
        options = {"mpp": mpp, "background_fraction": 1 - LEAST_TISSUE}
        clock.step(
            f"tiles, {mpp} µm/px",
            lambda options=options: zs.pp.tile_tissues(wsi, SIZE_PX, **options),
            lambda _: len(wsi["tiles"]),
        )

        def read():
            return [tile.image for tile in itertools.islice(wsi.iter.tile_images("tiles"), n_patches)]

        patches = clock.step(f"reading, {mpp} µm/px", read, len)
        if patches[0].shape != (SIZE_PX, SIZE_PX, 3):
            raise RuntimeError(f"tiles of {patches[0].shape}")
    return clock


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable()
    clock = {"spade": spade, "lazyslide": lazyslide}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
    peak = peak_mib()
    print(json.dumps({"seconds": clock.seconds, "tiles": clock.tiles, "peak": peak}))
