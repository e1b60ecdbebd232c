"""Which image shows a section, and where its spots lie on it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from spatialdata import SpatialData
from spatialdata.models import SpatialElement

from spade import _keys
from spade._checks import shorten
from spade._samples.images import describe, is_rgb
from spade.core.arrays import Floats
from spade.io._recorded.frames import box_of, image_size, matrix_between, matrix_to, scale_factors, systems_of

logger = logging.getLogger("spade")
#: Images whose boxes overlap by at least this share (intersection over union) show the same section.
SAME_SECTION = 0.8
#: An axis may be stretched by at most this share more than the other.
ISOTROPY = 0.05
NAME_CHANNELS = (
    "If one of them is the H&E image, name its channels: sdata.set_channel_names(image, ['r', 'g', 'b']), with 'a' for "
    "a fourth that is opacity."
)


@dataclass(frozen=True)
class SpotPlacement:
    """A section's image and its spots in that image's pixels (finest level)."""

    image_key: str
    coordinate_system: str
    centres: Floats
    radii: Floats
    index: NDArray[np.generic]
    #: Median side of spots that are squares, such as bins; None for others.
    side_px: float | None

    def inside(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Whether each centre (x, y) lies in an image of ``(height, width)``."""
        x, y = self.centres.T
        return (x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0])


def pixels_of(sdata: SpatialData, shapes: SpatialElement, image_key: str, system: str, name: str) -> Floats:
    """Return the ``(3, 3)`` matrix on (x, y) from an element to pixels of an image (finest level), by way of a system.

    Another that both have serves where one of them has lost it; see :func:`~spade.io._recorded.frames.matrix_between`.
    """
    return matrix_between(shapes, sdata.images[image_key], f"{name}: the shapes", f"images[{image_key!r}]", system)


def _extent(sdata: SpatialData, image_key: str, coordinate_system: str) -> Floats:
    image = sdata.images[image_key]
    return box_of(matrix_to(image, coordinate_system), *image_size(image)).ravel()


def _overlap(a: Floats, b: Floats) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    sides = np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]))
    shared = float(np.prod(sides))
    return shared / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared)


def _pixel_size(sdata: SpatialData, image_key: str, coordinate_system: str) -> float:
    return float(np.sqrt(abs(np.linalg.det(matrix_to(sdata.images[image_key], coordinate_system)[:2, :2]))))


def place(sdata: SpatialData, sample: str, region: str, regions: list[str], image_key: str | None) -> SpotPlacement:
    """Find the image of a section and map its spots to the pixels of that image.

    Parameters
    ----------
    sdata
        The object.
    sample
        Name for messages.
    region
        Shapes element with the spots of the section.
    regions
        All regions of the table.
    image_key
        The image. None: the only RGB image that shares a coordinate system with the spots, or the finest of several
        that cover the same area there.
    """
    shapes = _spots(sdata, sample, region)
    key, system = _image_of(sdata, sample, region, regions, image_key)
    matrix = pixels_of(sdata, shapes, key, system, sample)
    longest, shortest = scale_factors(matrix)
    if longest > (1 + ISOTROPY) * shortest:
        raise ValueError(
            f"{sample}: the transformation from shapes[{region!r}] to images[{key!r}] stretches one axis "
            f"{longest / shortest:.2f} times as much as the other. Check both elements' transformations to "
            f"{system!r}."
        )
    centroids = shapes.geometry.centroid
    points = np.column_stack([centroids.x, centroids.y, np.ones(len(shapes))]) @ matrix.T
    growth, sides = float(np.sqrt(longest * shortest)), _sides(shapes)
    return SpotPlacement(
        image_key=key,
        coordinate_system=system,
        centres=points[:, :2],
        radii=_radii(shapes, sides) * growth,
        index=shapes.index.to_numpy(),
        side_px=None if sides is None else float(np.median(sides)) * growth,
    )


def _spots(sdata: SpatialData, sample: str, region: str) -> GeoDataFrame:
    """Return the spots of a section; raise if they are not there or share ids."""
    if region not in sdata.shapes:
        advice = (
            f" It is among the labels {shorten(sdata.labels)}: convert them to circles with spatialdata.to_circles, or "
            "read cells as circles (cells_as_circles=True of spatialdata_io.xenium)."
        )
        raise KeyError(
            f"{sample}: the table annotates {region!r}, which is not among the shapes: "
            f"{shorten(sdata.shapes) or 'none'}. Patches need spots as circles or points with a radius."
            f"{advice if region in sdata.labels else ''}"
        )
    shapes = sdata.shapes[region]
    if not shapes.index.is_unique:
        repeated = shapes.index[shapes.index.duplicated()].unique()
        raise ValueError(
            f"{sample}: shapes[{region!r}] has {len(repeated)} instance ids more than once, such as "
            f"{shorten(repeated)}. Make the index unique."
        )
    without = (shapes.geometry.isna() | shapes.geometry.is_empty).to_numpy()
    if without.any():
        raise ValueError(
            f"{sample}: {int(without.sum())} of {len(shapes)} shapes[{region!r}] have no geometry, such as "
            f"{shorten(shapes.index[without])}. Remove them and their rows of the table."
        )
    return shapes


def _image_of(
    sdata: SpatialData, sample: str, region: str, regions: list[str], image_key: str | None
) -> tuple[str, str]:
    """Return the image of a section and the coordinate system that it shares with the spots."""
    rgb = rgb_images(sdata, sample, image_key)
    systems = systems_of(sdata.shapes[region])
    systems_of_image = {key: systems_of(sdata.images[key]) for key in rgb}
    shared = {key: [s for s in systems if s in known] for key, known in systems_of_image.items()}
    shared = {key: common for key, common in shared.items() if common}
    if not shared:
        raise ValueError(
            f"{sample}: spots and image have no coordinate system in common: shapes[{region!r}] has {systems}, images "
            f"have {systems_of_image}. Relate them with spatialdata.transformations.set_transformation."
        )
    others = [other for other in regions if other != region and other in sdata.shapes]
    advice = "Choose one with image_key= (a name, or a dict from region to name)."
    return finest_image(sdata, sample, repr(region), others, shared, advice)


def rgb_images(sdata: SpatialData, sample: str, image_key: str | None) -> list[str]:
    """Return the names of the RGB images, or the one given; raise if there is none, or it is none.

    Values of tiles that were drawn as an image are no picture of tissue.
    """
    rgb = [key for key in sdata.images if is_rgb(sdata.images[key]) and not _is_drawn(sdata, key)]
    if image_key is not None and image_key not in sdata.images:
        raise KeyError(f"{sample}: image_key={image_key!r} is not there; images: {shorten(sdata.images) or 'none'}.")
    if image_key is not None and image_key not in rgb:
        raise ValueError(
            f"{sample}: images[{image_key!r}] is not an 8-bit RGB image ({_describe(sdata, [image_key])}). "
            f"RGB images: {shorten(rgb) or 'none'}. {NAME_CHANNELS}"
        )
    if image_key is None and not rgb:
        raise ValueError(
            f"{sample}: there is no 8-bit RGB image; images: {_describe(sdata, list(sdata.images)) or 'none'}. Add the "
            f"H&E image with spatialdata.models.Image2DModel. {NAME_CHANNELS}"
        )
    return rgb if image_key is None else [image_key]


def _is_drawn(sdata: SpatialData, key: str) -> bool:
    record = sdata.attrs.get(_keys.UNS, {}).get(key)
    return isinstance(record, dict) and record.get("function") == _keys.SCORE_IMAGE


def _sides(shapes: GeoDataFrame) -> Floats | None:
    """Return the sides of squares, None for circles, points and other polygons."""
    geometry = shapes.geometry.to_numpy()
    if "radius" in shapes or not len(geometry) or not (shapely.get_num_coordinates(geometry) == 5).all():
        return None
    return np.sqrt(shapely.area(geometry))


def _radii(shapes: GeoDataFrame, sides: Floats | None) -> Floats:
    """Return the radii of circles, half the sides of squares, or the radii of circles with the area of polygons."""
    if "radius" in shapes:
        return shapes["radius"].to_numpy(dtype=np.float64)
    return np.sqrt(shapes.geometry.area.to_numpy() / np.pi) if sides is None else sides / 2


def finest_image(
    sdata: SpatialData, sample: str, what: str, others: list[str], shared: dict[str, list[str]], advice: str
) -> tuple[str, str]:
    """Return the finest of the images that depict a section or slide, and the coordinate system used.

    ``shared`` are the coordinate systems through which each image may show it. Other sections (shapes) in the same one
    make several images ambiguous.
    """
    systems = [set(common) for common in shared.values()]
    in_all = [s for s in next(iter(shared.values())) if all(s in common for common in systems)]
    if len(shared) == 1:
        key, common = next(iter(shared.items()))
        return key, "global" if "global" in common else common[0]
    listed = shorten(shared)
    if not in_all:
        raise ValueError(f"{sample}: {what} shares coordinate systems with several images, {listed}. {advice}")
    system = "global" if "global" in in_all else in_all[0]
    others = [other for other in others if system in systems_of(sdata.shapes[other])]
    boxes = [_extent(sdata, key, system) for key in shared]
    if others or min(_overlap(boxes[0], box) for box in boxes) < SAME_SECTION:
        reason = (
            f"the coordinate system {system!r} also holds {shorten(others)}" if others else "they cover different areas"
        )
        raise ValueError(f"{sample}: several images may show {what}, {listed}, and {reason}. {advice}")
    key = min(shared, key=lambda k: _pixel_size(sdata, k, system))
    logger.info("%s: %s show the same section; the finest, images[%r], is used", sample, listed, key)
    return key, system


def _describe(sdata: SpatialData, keys: list[str]) -> str:
    return "; ".join(f"{key!r}: {describe(sdata.images[key])}" for key in keys)
