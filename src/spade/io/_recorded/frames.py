"""Where an element lies: its matrix to a coordinate system, and the frame of an image when something was recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from spade.core.arrays import Floats

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spatialdata.models import SpatialElement
    from xarray import DataArray, DataTree

#: Relative differences below this are rounding.
ROUNDING = 1e-9
#: Coordinate systems agree if an element lies at most this many pixels apart by way of them.
SAME_PLACE = 0.5
MATRIX = ("xx", "xy", "x0", "yx", "yy", "y0")


class FrameRecord(TypedDict):
    """Size of an image at its finest level, and where its pixels lay, as it was when something was recorded."""

    width: int
    height: int
    coordinate_system: str
    #: Matrix from pixels (x, y) to the coordinate system: x' = xx·x + xy·y + x0, y' = yx·x + yy·y + y0.
    xx: float
    xy: float
    x0: float
    yx: float
    yy: float
    y0: float


def systems_of(element: SpatialElement) -> list[str]:
    """Return the coordinate systems of an element."""
    from spatialdata.transformations import get_transformation

    return list(get_transformation(element, get_all=True))


def matrix_to(element: SpatialElement, coordinate_system: str) -> Floats:
    """Return the ``(3, 3)`` matrix on (x, y) from an element to a coordinate system."""
    from spatialdata.transformations import get_transformation

    transformation = get_transformation(element, to_coordinate_system=coordinate_system)
    return transformation.to_affine_matrix(input_axes=("x", "y"), output_axes=("x", "y"))


def matrix_between(
    element: SpatialElement, image: SpatialElement, what: str, of_image: str, system: str | None = None
) -> Floats:
    """Return the ``(3, 3)`` matrix on (x, y) from an element to pixels of an image (finest level).

    It goes through ``system`` if both have it, else through the first that they share. All that they share must agree:
    an image that was registered in a new coordinate system may still lie elsewhere in the old one. ``what`` and
    ``of_image`` say in messages what they are.
    """
    of_element = systems_of(element)
    shared = [one for one in systems_of(image) if one in of_element]
    shared.sort(key=lambda one: one != system)
    if not shared:
        raise ValueError(
            f"{what} and {of_image} have no coordinate system in common: {of_element} and {systems_of(image)}. Relate "
            "them with spatialdata.transformations.set_transformation."
        )
    first, *others = [np.linalg.inv(matrix_to(image, one)) @ matrix_to(element, one) for one in shared]
    for other, matrix in zip(shared[1:], others, strict=True):
        if (apart := _apart(first, matrix, image_size(image))) > SAME_PLACE:
            raise ValueError(
                f"{what} and {of_image} lie {apart:.4g} px apart by way of the coordinate systems {shared[0]!r} and "
                f"{other!r}, so one of these is outdated, as after a registration in a new one. Remove it from one of "
                "both, such as spatialdata.transformations.remove_transformation(image, to_coordinate_system="
                f"{shared[0]!r}); on disk with write_to_sdata=sdata."
            )
    return first


def _apart(a: Floats, b: Floats, size: tuple[int, int]) -> float:
    """Return how far apart two matrices to an image place what ``b`` places in its corners."""
    return float(np.linalg.norm((_corners(*size) @ (a @ np.linalg.pinv(b) - np.eye(3)).T)[:, :2], axis=1).max())


def scale_factors(matrix: Floats) -> tuple[float, float]:
    """Return by how much a matrix stretches its longest and its shortest axis."""
    longest, shortest = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    return float(longest), float(shortest)


def image_arrays(image: DataArray | DataTree) -> list[DataArray]:
    """Return the resolutions of an image element, finest first."""
    from xarray import DataArray

    if isinstance(image, DataArray):
        return [image]
    levels = (next(iter(image[name].data_vars.values())) for name in image)
    return sorted(levels, key=lambda level: -level.sizes["x"])


def image_size(image: DataArray | DataTree) -> tuple[int, int]:
    """Return width and height of an image at its finest level."""
    sizes = image_arrays(image)[0].sizes
    return int(sizes["x"]), int(sizes["y"])


def frame_of(image: SpatialElement, coordinate_system: str | None = None) -> FrameRecord:
    """Return the frame of an image as it is now, in a coordinate system (None: its first)."""
    width, height = image_size(image)
    system = systems_of(image)[0] if coordinate_system is None else coordinate_system
    xx, xy, x0, yx, yy, y0 = map(float, matrix_to(image, system)[:2].ravel())
    return FrameRecord(width=width, height=height, coordinate_system=system, xx=xx, xy=xy, x0=x0, yx=yx, yy=yy, y0=y0)


def pixel_growth(then: Mapping[str, Any], image: SpatialElement) -> float | None:
    """Return how many pixels of an earlier frame one pixel of an image spans; None if this cannot be known.

    An image of the same size has the same pixels. One of another size is a part of the earlier image, or the same area
    at a coarser resolution, if its transformation says so: it lies within the earlier frame, and its matrix is not that
    of the earlier image, with which a part and a coarser copy look alike.
    """
    width, height = image_size(image)
    if (width, height) == (int(then["width"]), int(then["height"])):
        return 1.0
    system = str(then["coordinate_system"])
    if system not in systems_of(image):
        return None
    before, now = np.array([float(then[name]) for name in MATRIX]).reshape(2, 3), matrix_to(image, system)[:2]
    if np.allclose(before, now, rtol=ROUNDING, atol=ROUNDING):
        return None
    old, new = box_of(before, int(then["width"]), int(then["height"])), box_of(now, width, height)
    slack = 0.01 * (old[1] - old[0])
    if (new[0] < old[0] - slack).any() or (new[1] > old[1] + slack).any():
        return None
    growth = float(np.sqrt(abs(np.linalg.det(now[:, :2]) / np.linalg.det(before[:, :2]))))
    growth = 1.0 if abs(growth - 1) < ROUNDING else growth
    return growth if growth >= 1 else None


def box_of(matrix: Floats, width: int, height: int) -> Floats:
    """Return the lower and upper corner (x, y) of an image in the coordinate system of its matrix."""
    corners = _corners(width, height) @ matrix[:2].T
    return np.stack([corners.min(0), corners.max(0)])


def _corners(width: int, height: int) -> Floats:
    return np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], dtype=np.float64)
