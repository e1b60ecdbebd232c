"""Where the source of counts lies on the H&E image, and the µm/px of that."""

from __future__ import annotations

from spatialdata.models import SpatialElement

from spade._samples.placement import ISOTROPY, finest_image, pixels_of, rgb_images
from spade._samples.sample import Opened
from spade.core.arrays import Floats
from spade.core.spots.lattice import TOLERANCE
from spade.io._recorded.frames import scale_factors, systems_of
from spade.io._recorded.scale import known_mpp
from spade.pp._bins.settings import BinSettings
from spade.pp._bins.squares import Frame
from spade.pp._scale import neighbours_mpp


def frame_of_element(sample: Opened, element: SpatialElement, what: str, settings: BinSettings) -> tuple[Frame, Floats]:
    """Return the image that shows an element, and the ``(3, 3)`` matrix on (x, y) from the element to its pixels."""
    sdata = sample.sdata
    systems = systems_of(element)
    rgb = rgb_images(sdata, sample.name, settings.image_key)
    shared = {key: [one for one in systems if one in systems_of(sdata.images[key])] for key in rgb}
    shared = {key: common for key, common in shared.items() if common}
    if not shared:
        raise ValueError(
            f"{sample.name}: {what} and the images have no coordinate system in common: {systems} and "
            f"{ {key: systems_of(sdata.images[key]) for key in rgb} }. Relate them with "
            "spatialdata.transformations.set_transformation."
        )
    key, system = finest_image(sdata, sample.name, what, [], shared, "Choose one with image_key=.")
    matrix = pixels_of(sdata, element, key, system, sample.name)
    longest, shortest = scale_factors(matrix)
    if longest > (1 + ISOTROPY) * shortest:
        raise ValueError(
            f"{sample.name}: the transformation from {what} to images[{key!r}] stretches one axis "
            f"{longest / shortest:.2f} times as much as the other. Check both elements' transformations to {system!r}."
        )
    return Frame(key, system, _mpp(sample, key, system, settings.mpp)), matrix


def _mpp(sample: Opened, image_key: str, system: str, stated: float | None) -> float:
    """Return the stated, recorded or measured µm/px of an image; raise if it is not known, or they contradict."""
    known = known_mpp(sample.sdata, image_key, stated, sample.name)
    told = neighbours_mpp(sample.sdata, image_key, system)
    if known is None and told is None:
        raise ValueError(
            f"{sample.name}: the microns per pixel of images[{image_key!r}] are not known: no reader recorded them, "
            "and no element tells them. Pass mpp= (µm per pixel of that image at its finest level)."
        )
    if known is not None and told is not None and abs(known / told - 1) > TOLERANCE:
        raise ValueError(
            f"{sample.name}: mpp is {known:.4g} µm per pixel of images[{image_key!r}], but bins or coordinates in µm "
            f"lie on it at {told:.4g} µm/px. Check mpp= (of the image at its finest level) and the transformations."
        )
    return float(told if known is None else known)  # type: ignore[arg-type]
