"""The colours of slides, and those that patches of all slides get before they are encoded."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike

from spatialdata import SpatialData

from spade._samples.images import image_levels
from spade._samples.open import as_list, iter_slides
from spade._samples.slides.image import slide_image
from spade.core.checks import check_choice
from spade.core.files import digest
from spade.core.patches.sources import SectionPatches
from spade.core.patches.staining import METHODS, Staining, shipped, staining, tissue_pixels

#: In records: what takes the place of the name of a reference slide.
SHIPPED = "shipped"
#: What to do about a reference slide whose image or µm/px is not clear.
CHOOSE = "Pass a colour_reference with one of them alone."
STATE = "Make patches on the reference with sp.pp.patches or sp.pp.tiles, which record it."


@dataclass(frozen=True)
class Colour:
    """The colours that patches get.

    Attributes
    ----------
    target
        What these are.
    reference
        Name of the slide that has them.
    id
        Digest of the method, and of a picture of that slide.
    """

    target: Staining
    reference: str
    id: str

    @property
    def origin(self) -> dict[str, str]:
        """Facts about the origin of features, for their record."""
        return {"colour": f"{self.target.method} {self.id}", "colour_reference": self.reference}

    def of_section(self, name: str, patches: SectionPatches, mpp: float) -> Staining:
        """Return the colours of the slide on which a section lies, whatever patches it has."""
        return staining(tissue_pixels(patches.levels, mpp)[0], self.target.method, name)


def colour_of(method: str | None, reference: SpatialData | str | PathLike[str] | None) -> Colour | None:
    """Return the colours that were asked for; those of a reference are read from its image."""
    if method is None:
        if reference is not None:
            raise ValueError("colour_reference has no effect without colour=; name a method, such as colour='macenko'.")
        return None
    check_choice("colour", method, METHODS)
    if reference is None:
        return Colour(shipped(method), SHIPPED, digest(f"{method} {SHIPPED}"))
    slides = as_list(reference, "colour_reference")
    if len(slides) != 1:
        raise ValueError(f"colour_reference: got {len(slides)} slides; all patches get the colours of one.")
    slide = next(iter_slides(slides))
    image = slide_image(slide, None, None, choose=CHOOSE, state=STATE)
    pixels, picture = tissue_pixels(image_levels(image.element), image.mpp)
    target = staining(pixels, method, f"colour_reference={slide.name}")
    return Colour(target, slide.name, digest(method, picture))
