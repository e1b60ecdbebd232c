"""The H&E image of a slide and its microns per pixel."""

from __future__ import annotations

from dataclasses import dataclass

from xarray import DataArray, DataTree

from spade import _keys
from spade._samples.placement import finest_image, rgb_images
from spade._samples.sample import Opened
from spade.io._recorded.frames import image_size, pixel_growth, systems_of
from spade.io._recorded.scale import known_mpp


@dataclass(frozen=True)
class SlideImage:
    """An image and its microns per pixel at its finest level."""

    key: str
    element: DataArray | DataTree
    coordinate_system: str
    mpp: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height at the finest level."""
        return image_size(self.element)


def slide_image(
    slide: Opened,
    image_key: str | None,
    mpp: float | None,
    *,
    choose: str = "Choose one with image_key=.",
    state: str = "Pass mpp= (µm per pixel of that image at its finest level).",
) -> SlideImage:
    """Return the image that was named, or the only RGB image, or the finest of several that show the same area.

    Its µm/px are those stated, else those that a reader or an earlier step recorded; a contradiction is warned of.
    ``choose`` and ``state`` say what to do if the image or its µm/px is not clear.
    """
    sdata = slide.sdata
    rgb = rgb_images(sdata, slide.name, image_key)
    systems = {one: systems_of(sdata.images[one]) for one in rgb}
    key, system = finest_image(sdata, slide.name, "the slide", [], systems, choose)
    known = known_mpp(sdata, key, mpp, slide.name) or _of_patches(slide, key)
    if known is None:
        raise ValueError(
            f"{slide.name}: the microns per pixel of images[{key!r}] are not known: no reader recorded them. {state}"
        )
    return SlideImage(key, sdata.images[key], system, known)


def _of_patches(slide: Opened, key: str) -> float | None:
    """Return the µm/px in the record of patches on the image, as those around the spots of a section beside."""
    for table in slide.sdata.tables.values():
        for facts in table.uns.get(_keys.UNS, {}).values():
            for record in facts.get("regions", {}).values():
                if record["image"] == key and "frame" in record:
                    frame = {**record["frame"], "coordinate_system": record["coordinate_system"]}
                    growth = pixel_growth(frame, slide.sdata.images[key])
                    return None if growth is None else float(record["mpp"]) * growth
    return None
