"""What readers record about a section: its name, microns per pixel and the pitch of its spots."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from spade._keys import UNS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spatialdata import SpatialData


class SectionRecord(TypedDict, total=False):
    """What ``attrs["spade"]`` holds; objects of other readers have none, or a part of it."""

    sample: str
    #: µm/px of the finest level, by image element.
    mpp: dict[str, float]
    #: Distance of neighbouring spots in µm, by shapes element.
    pitch_um: dict[str, float]


def record_scale(
    sdata: SpatialData,
    *,
    sample: str,
    mpp: Mapping[str, float] | None = None,
    pitch_um: Mapping[str, float] | None = None,
) -> None:
    """Write what a reader knows to ``sdata.attrs["spade"]``.

    Parameters
    ----------
    sdata
        Object to write into.
    sample
        Name of the sample, used in messages, plots and retrieval results.
    mpp
        Microns per pixel of images at their finest level, by image element.
    pitch_um
        Centre-to-centre distance of neighbouring spots in µm, by shapes element.
    """
    old = section_record(sdata)
    new: SectionRecord = {
        "sample": sample,
        "mpp": {**old.get("mpp", {}), **{key: float(value) for key, value in (mpp or {}).items()}},
        "pitch_um": {**old.get("pitch_um", {}), **{key: float(value) for key, value in (pitch_um or {}).items()}},
    }
    sdata.attrs[UNS] = new


def section_record(sdata: SpatialData) -> SectionRecord:
    """Return what a reader recorded, empty if nothing."""
    record: SectionRecord = sdata.attrs.get(UNS, {})
    return record


def recorded_mpp(sdata: SpatialData, image_key: str) -> float | None:
    """Return the µm/px that a reader recorded for an image, None if it did not."""
    return section_record(sdata).get("mpp", {}).get(image_key)


def recorded_pitch(sdata: SpatialData, shapes_key: str) -> float | None:
    """Return the pitch in µm that a reader recorded for the spots, None if it did not."""
    return section_record(sdata).get("pitch_um", {}).get(shapes_key)
