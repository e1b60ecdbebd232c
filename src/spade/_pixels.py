"""Where the pixels of a sample's patches lie."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spade._images import image_levels
from spade._patches import patch_centres, patch_record
from spade._samples import Sample
from spade.core.pixels import Placed


def placed_sections(sample: Sample, patches_key: str) -> list[tuple[NDArray[np.int64], Placed]]:
    """Return, for every section that has patches, the rows of the table whose patch is valid, and where these lie.

    Sections without patches are passed over: ``patch_record(...)["regions"]`` says which have them.
    """
    record = patch_record(sample, patches_key)
    found = []
    for section in sample.sections:
        if section.region in record["regions"]:
            facts = record["regions"][section.region]
            centres, inside = patch_centres(sample, section, facts)
            levels = image_levels(sample.sdata.images[facts["image"]])
            placed = Placed(levels, centres[inside][:, ::-1], record["size_um"] / facts["mpp"])
            found.append((section.rows[inside], placed))
    return found
