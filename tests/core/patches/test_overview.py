"""An image seen from afar: means of blocks of pixels, for which every chunk is read once."""

from __future__ import annotations

import numpy as np
import pytest

from spade.core.patches.overview import read_region
from spade.core.patches.tiles import Level


@pytest.mark.parametrize("chunks", [(64, 48), (5, 300), (300, 7), (1000, 1000)])
@pytest.mark.parametrize("most", [20, 37, 260])
def test_every_chunk_is_read_once_whatever_blocks_cross_it(chunks, most):
    image, log = np.random.default_rng(0).integers(0, 256, (3, 260, 300), dtype=np.uint8), []

    def read(y0, y1, x0, x1):
        log.extend((y, x) for y in range(y0, y1) for x in range(x0, x1))
        return image[:, y0:y1, x0:x1]

    edges = [np.append(np.arange(0, n, chunk), n) for n, chunk in zip((260, 300), chunks, strict=True)]
    found, covered = read_region([Level(read, *edges)], np.array([13.0, 10.0, 290.0, 255.0]), most)
    step = round((290 - 13) / most)
    rows, columns = 245 // step, 277 // step
    assert covered.tolist() == [13, 10, 13 + columns * step, 10 + rows * step]
    blocks = image[:, 10 : 10 + rows * step, 13 : 13 + columns * step].reshape(3, rows, step, columns, step)
    np.testing.assert_array_equal(found, np.round(blocks.mean((2, 4))).transpose(1, 2, 0))
    assert len(log) == len(set(log)) == rows * columns * step**2
