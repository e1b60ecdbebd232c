"""What readers record about a section: its name, microns per pixel and the pitch of its spots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from spade._keys import UNS
from spade.core.errors import warn
from spade.core.spots.lattice import TOLERANCE
from spade.io._recorded.frames import FrameRecord, frame_of, pixel_growth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spatialdata import SpatialData


class SectionRecord(TypedDict, total=False):
    """What ``attrs["spade"]`` holds; objects of other readers have none, or a part of it."""

    sample: str
    #: µm/px of the finest level, by image element.
    mpp: dict[str, float]
    #: Size and transformation of the images that ``mpp`` belongs to, by image element.
    frames: dict[str, FrameRecord]
    #: Distance of neighbouring spots in µm, by shapes element.
    pitch_um: dict[str, float]
    #: What the file of a whole slide states, by image element.
    slides: dict[str, dict[str, Any]]


def record_scale(
    sdata: SpatialData,
    *,
    sample: str | None = None,
    mpp: Mapping[str, float] | None = None,
    pitch_um: Mapping[str, float] | None = None,
    slides: Mapping[str, dict[str, Any]] | None = None,
) -> None:
    """Write what a reader knows to ``sdata.attrs["spade"]``.

    Parameters
    ----------
    sdata
        Object to write into.
    sample
        Name of the sample, used in messages, plots and retrieval results; None: left as it is.
    mpp
        Microns per pixel of images at their finest level, by image element.
    pitch_um
        Centre-to-centre distance of neighbouring spots in µm, by shapes element.
    slides
        What the file of a whole slide states, by image element.
    """
    old = section_record(sdata)
    new: SectionRecord = {
        **old,
        **({} if sample is None else {"sample": sample}),
        "mpp": {**old.get("mpp", {}), **{key: float(value) for key, value in (mpp or {}).items()}},
        "frames": {
            **old.get("frames", {}),
            **{key: frame_of(sdata.images[key]) for key in mpp or {} if key in sdata.images},
        },
        "pitch_um": {**old.get("pitch_um", {}), **{key: float(value) for key, value in (pitch_um or {}).items()}},
    }
    if known := {**old.get("slides", {}), **(slides or {})}:
        new["slides"] = known
    sdata.attrs[UNS] = new


def section_record(sdata: SpatialData) -> SectionRecord:
    """Return what a reader recorded, empty if nothing."""
    record: SectionRecord = sdata.attrs.get(UNS, {})
    return record


def recorded_mpp(sdata: SpatialData, image_key: str) -> float | None:
    """Return the µm/px of an image by what a reader recorded, None if it did not.

    The record belongs to the image as it was read. A part of that image, or the same area at another resolution, is
    recognised by its transformation; any other image of another size raises.
    """
    mpp = section_record(sdata).get("mpp", {}).get(image_key)
    frame = section_record(sdata).get("frames", {}).get(image_key)
    if mpp is None or frame is None:
        return mpp
    return mpp * checked_growth(sdata, image_key, frame)


def known_mpp(sdata: SpatialData, image_key: str, stated: float | None, name: str) -> float | None:
    """Return the stated µm/px of an image, else the recorded one; warn if the two contradict each other."""
    if stated is None:
        return recorded_mpp(sdata, image_key)
    mpp = section_record(sdata).get("mpp", {}).get(image_key)
    frame = section_record(sdata).get("frames", {}).get(image_key)
    growth = 1.0 if frame is None else pixel_growth(frame, sdata.images[image_key])
    if mpp is not None and growth is not None and abs(stated / (mpp * growth) - 1) > TOLERANCE:
        warn(
            f"{name}: mpp={stated:.4g} is used for images[{image_key!r}], of which {mpp * growth:.4g} µm per pixel are "
            "recorded. Check mpp= (of the image at its finest level), or leave it out."
        )
    return stated


def checked_growth(sdata: SpatialData, image_key: str, then: FrameRecord) -> float:
    """Return how many pixels of the recorded frame one pixel of the image spans; raise if this cannot be known."""
    growth = pixel_growth(then, sdata.images[image_key])
    if growth is None:
        now = frame_of(sdata.images[image_key])
        raise ValueError(
            f"images[{image_key!r}] had {then['width']} × {then['height']} pixels when its µm/px was recorded and has "
            f"{now['width']} × {now['height']} now, and its transformations do not say whether it was cropped or "
            "resampled. Set its transformation with spatialdata.transformations.set_transformation, or state the "
            "µm/px that it has now with mpp= (of sp.pp.patches, or sp.pp.tissue for slides)."
        )
    return growth


def recorded_pitch(sdata: SpatialData, shapes_key: str) -> float | None:
    """Return the pitch in µm that a reader recorded for the spots, None if it did not."""
    return section_record(sdata).get("pitch_um", {}).get(shapes_key)
