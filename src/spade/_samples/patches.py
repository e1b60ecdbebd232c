"""What ``pp.patches`` wrote, read back: centres of patches, and the image they lie on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade import _keys
from spade._checks import shorten
from spade._samples.images import image_arrays
from spade._samples.sample import Sample, Section
from spade.core.arrays import Floats
from spade.core.checks import check_text


def patch_record(sample: Sample, patches_key: str) -> dict[str, Any]:
    """Return size and regions of the patches; raise with the patches there are."""
    check_text("patches_key", patches_key)
    record: Any = _keys.read_provenance(sample.table.uns, patches_key)
    if "regions" not in record:
        written = [key for key, facts in sample.table.uns.get(_keys.UNS, {}).items() if "regions" in facts]
        raise KeyError(
            f"{sample.name}: patches_key={patches_key!r} is not there; patches: {shorten(written) or 'none'}. Make "
            "them with sp.pp.patches(samples)."
        )
    for region, facts in record["regions"].items():
        for kind, elements, key in (
            ("shapes", sample.sdata.shapes, facts["element"]),
            ("images", sample.sdata.images, facts["image"]),
        ):
            if key not in elements:
                raise KeyError(
                    f"{sample.name}: {kind}[{key!r}], which the patches of {region!r} need, is gone; {kind}: "
                    f"{shorten(elements) or 'none'}. Run sp.pp.patches again."
                )
    return record


def region_facts(record: dict[str, Any], section: Section) -> dict[str, Any]:
    """Return the record of a section's patches; raise if it has none."""
    if section.region not in record["regions"]:
        raise KeyError(f"{section.name} has no patches; run sp.pp.patches for every region first.")
    return record["regions"][section.region]


def patch_centres(
    sample: Sample, section: Section, facts: dict[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return centres (x, y) of a section's patches in image pixels, row by row, and which lie in the image."""
    squares = sample.sdata.shapes[facts["element"]]
    positions = pd.Index(squares.index).get_indexer(section.ids)
    if (positions < 0).any():
        raise KeyError(
            f"{section.name}: {int((positions < 0).sum())} rows have no patch in shapes[{facts['element']!r}], such as "
            f"{shorten(section.ids[positions < 0])}. Run sp.pp.patches again."
        )
    bounds = squares.geometry.bounds.to_numpy()[positions]
    centres = (bounds[:, :2] + bounds[:, 2:]) / 2
    finest = image_arrays(sample.sdata.images[facts["image"]])[0]
    inside = ((centres >= 0) & (centres < [finest.sizes["x"], finest.sizes["y"]])).all(1)
    return centres, inside


def section_points(sample: Sample, section: Section, record: dict[str, Any]) -> NDArray[np.float64]:
    """Return centres (x, y) of a section's patches in µm, row by row; raise if it has none."""
    facts = region_facts(record, section)
    return patch_centres(sample, section, facts)[0] * facts["mpp"]


def row_centres(sample: Sample, patches_key: str, *, required: bool) -> tuple[Floats, float]:
    """Return the centres (x, y) of all rows in µm, and the side of a patch in µm.

    A section without patches raises if they are ``required``, else its centres are NaN. If no patches are there, or
    their shapes or images are gone, all centres are NaN and the side is 0.
    """
    centres = np.full((sample.table.n_obs, 2), np.nan)
    if not (required or _has_patches(sample, patches_key)):
        return centres, 0.0
    record = patch_record(sample, patches_key)
    for section in sample.sections:
        if required or section.region in record["regions"]:
            centres[section.rows] = section_points(sample, section, record)
    return centres, float(record["size_um"])


def _has_patches(sample: Sample, patches_key: str) -> bool:
    """Whether there are patches whose shapes and images are at hand."""
    regions = _keys.read_provenance(sample.table.uns, check_text("patches_key", patches_key)).get("regions", {})
    return bool(regions) and all(
        facts["element"] in sample.sdata.shapes and facts["image"] in sample.sdata.images for facts in regions.values()
    )
