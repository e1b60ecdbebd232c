"""A look at a picture from all over it, at a coarse resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from spade.io._files.damaged import DamagedFileError
from spade.io._images.colours import Pixels

#: Longer side in pixels from which a level shows enough, and the size up to which all of it is read.
ENOUGH, MOST_PIXELS = 512, 2**22
#: Windows along each axis of a larger one, and their side in pixels.
WINDOWS, WINDOW = 8, 64


def coarsest(sizes: Sequence[tuple[int, int]]) -> int:
    """Return the position of the coarsest level (height, width), of levels from fine to coarse, that shows enough."""
    return next((i for i in reversed(range(len(sizes))) if max(sizes[i]) >= ENOUGH), 0)


def overview(
    size: tuple[int, int],
    chunk: tuple[int, int],
    tile: tuple[int, int],
    read: Callable[[slice, slice], Pixels],
) -> Pixels:
    """Return pixels (n, 3) from all over a level; pieces that are damaged are left out, unless all are.

    Parameters
    ----------
    size
        Height and width of the level.
    chunk, tile
        Height and width of what is read at once where all of it is read, and of what the file decodes at once.
    read
        Returns rows and columns as (height, width, 3 or 4).
    """
    whole = size[0] * size[1] <= MOST_PIXELS
    found, failure = [], None
    for rows, columns in product(
        *(_pieces(n, side, whole=whole) for n, side in zip(size, chunk if whole else tile, strict=True))
    ):
        try:
            piece = read(rows, columns)
        except DamagedFileError as error:
            failure = error
        else:
            thinned = tuple(slice(None, None, max(1, side // ENOUGH)) for side in piece.shape[:2])
            found.append(piece[thinned][..., :3].reshape(-1, 3))
    if failure is not None and not found:
        raise failure
    return np.concatenate(found)


def _pieces(n: int, side: int, *, whole: bool) -> list[slice]:
    """Return all pieces of an axis, or, of one with many tiles, windows that lie in different ones.

    So no tile is decoded twice.
    """
    starts = range(0, n, side)
    if whole or len(starts) <= WINDOWS:
        return [slice(start, min(start + side, n)) for start in starts]
    chosen = (starts[i] for i in np.linspace(0, len(starts) - 1, WINDOWS).astype(int))
    return [slice(start, min(start + side, start + WINDOW, n)) for start in chosen]
