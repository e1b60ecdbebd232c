"""Microns per pixel: what readers record, how Visium is recognised, and the check against the spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spatialdata import SpatialData

from spade._keys import UNS


def record_scale(
    sdata: SpatialData,
    *,
    sample: str,
    mpp: Mapping[str, float] | None = None,
    pitch_um: Mapping[str, float] | None = None,
) -> None:
    """Record in ``sdata.attrs["spade"]`` what a reader knows.

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
    old = sdata.attrs.get(UNS, {})
    sdata.attrs[UNS] = {
        "sample": sample,
        "mpp": {**old.get("mpp", {}), **{key: float(value) for key, value in (mpp or {}).items()}},
        "pitch_um": {**old.get("pitch_um", {}), **{key: float(value) for key, value in (pitch_um or {}).items()}},
    }


def recorded_mpp(sdata: SpatialData, image_key: str) -> float | None:
    """Return the µm/px that a reader recorded for an image."""
    return sdata.attrs.get(UNS, {}).get("mpp", {}).get(image_key)


def recorded_pitch(sdata: SpatialData, shapes_key: str) -> float | None:
    """Return the pitch in µm that a reader recorded for the spots."""
    return sdata.attrs.get(UNS, {}).get("pitch_um", {}).get(shapes_key)
