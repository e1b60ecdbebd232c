"""Bounds of a slide: QuPath counts pixels from their corner, this package from that of the whole slide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from spade.io._recorded.frames import image_size
from spade.io._recorded.scale import section_record

if TYPE_CHECKING:
    from spatialdata import SpatialData

#: Upper left corner (x, y) in pixels of the whole slide at its finest level.
Corner = tuple[int, int]


def bounds_corner(sdata: SpatialData, image_key: str, *, in_bounds: bool | None) -> Corner | None:
    """Return the corner of the bounds that QuPath opens of a slide; None if coordinates are those of the whole image.

    ``in_bounds`` is as in :func:`spade.io.write_annotations`. Bounds belong to the slide as it was read; an image of
    another size is none of which QuPath knows bounds.
    """
    facts = section_record(sdata).get("slides", {}).get(image_key, {})
    bounds, levels = facts.get("bounds", ()), facts.get("levels", ())
    if in_bounds is False or len(bounds) != 4 or not (int(bounds[0]) or int(bounds[1])):
        return None
    if levels and tuple(map(int, levels[0])) != (size := image_size(sdata.images[image_key])):
        if in_bounds is None:
            return None
        raise ValueError(
            f"in_bounds=True: bounds are recorded of a slide of {levels[0][0]} × {levels[0][1]} pixels, but "
            f"images[{image_key!r}] has {size[0]} × {size[1]} now. Read the slide again, or pass in_bounds=False."
        )
    return int(bounds[0]), int(bounds[1])


def move_corner(areas: NDArray[np.object_], corner: Corner, *, to_bounds: bool) -> NDArray[np.object_]:
    """Return polygons of the whole slide as they are counted from the corner of its bounds, or the other way round."""
    step = np.array(corner, dtype=np.float64) * (-1 if to_bounds else 1)
    moved: NDArray[np.object_] = np.asarray(shapely.transform(areas, lambda points: points + step), dtype=object)
    return moved


def stated_bounds(properties: Mapping[str, Any], size: Sequence[int]) -> dict[str, Any]:
    """Return, in the form of a record, the bounds that another package states for an image of a width and height."""
    bounds, shape = properties.get("bounds"), properties.get("shape")
    if bounds is None or shape is None or len(bounds) != 4 or tuple(map(int, shape)) != tuple(size)[::-1]:
        return {}
    return {"levels": [list(map(int, size))], "bounds": list(map(int, bounds))}
