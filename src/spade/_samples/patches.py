"""What ``pp.patches`` wrote, read back: where patches lie on the image as both are now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from xarray import DataArray, DataTree

from spade import _keys
from spade._checks import shorten
from spade._samples.placement import ISOTROPY, pixels_of
from spade._samples.sample import Sample, Section
from spade.core.arrays import Floats
from spade.core.checks import check_text
from spade.io._recorded.frames import ROUNDING, image_size, pixel_growth, scale_factors

#: A square whose side differs by more than this share from the others was cut.
CUT = 1e-3


@dataclass(frozen=True)
class PlacedPatches:
    """The patches of one section, in pixels of the image (finest level) as it is now.

    Attributes
    ----------
    image_key, coordinate_system
        Image element, and the coordinate system that it shares with the patches.
    image
        The image.
    size
        Its width and height.
    centres
        Centres ``(n, 2)`` as (x, y), one per row of the section.
    side
        Side of a patch.
    mpp
        Microns per pixel.
    moved
        Whether image and patches lie otherwise than when the patches were made, as after a crop.
    """

    image_key: str
    coordinate_system: str
    image: DataArray | DataTree
    size: tuple[int, int]
    centres: Floats
    side: float
    mpp: float
    moved: bool

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Whether the centre of each patch lies in the image."""
        return np.all((self.centres >= 0) & (self.centres < self.size), axis=1)

    @property
    def points(self) -> Floats:
        """Centres in µm."""
        return self.centres * self.mpp


def patch_record(sample: Sample, patches_key: str) -> dict[str, Any]:
    """Return size and regions of the patches; raise with the patches there are, or if they are not usable.

    Elements that ``spatialdata.concatenate`` renamed are found by the ending that it appended to all of a section.
    """
    record: Any = _keys.read_provenance(sample.table.uns, check_text("patches_key", patches_key))
    if "regions" not in record:
        if sample.file is not None:
            raise KeyError(
                f"{sample.name}: {str(sample.file)!r} is a feature file, so it is not known where its patches lie. "
                "Lay them on their slide with sp.io.from_trident(slide, file)."
            )
        raise KeyError(f"{sample.name}: patches_key={patches_key!r} is not there; {_others(sample, patches_key)}")
    sample.check_current(patches_key)
    record["regions"] = _renamed(record["regions"], sample)
    for region, facts in record["regions"].items():
        for kind, elements, key in (
            ("shapes", sample.sdata.shapes, facts["element"]),
            ("images", sample.sdata.images, facts["image"]),
        ):
            if key not in elements:
                raise KeyError(
                    f"{sample.name}: {kind}[{key!r}], which the patches of {region!r} need, is gone; {kind}: "
                    f"{shorten(elements) or 'none'}. Run {maker(record)} again."
                )
    return record


def _others(sample: Sample, patches_key: str) -> str:
    """Return what patches there are, and how to make some."""
    written = [key for key, facts in sample.table.uns.get(_keys.UNS, {}).items() if "regions" in facts]
    alike = [key for key in sample.sdata.shapes if key.startswith(patches_key)]
    message = (
        f"patches: {shorten(written) or 'none'}. Make them with sp.pp.patches(samples), or sp.pp.tiles for slides."
    )
    if alike and not written:
        message += (
            f" shapes[{alike[0]!r}] may hold such squares, but the record of their size and µm/px is gone, as after "
            "spatialdata.concatenate with merged tables, which drops uns and attrs: keep the tables apart, or state "
            "mpp=."
        )
    return message


def _renamed(regions: dict[str, Any], sample: Sample) -> dict[str, Any]:
    """Return the records of regions under the names that the table and the object have for them now."""
    current = dict(regions)
    for region in {section.region for section in sample.sections} - set(regions):
        for old, facts in regions.items():
            ending = region.removeprefix(old)
            names = {kind: facts[kind] + ending for kind in ("element", "image", "coordinate_system")}
            known = names["element"] in sample.sdata.shapes and names["image"] in sample.sdata.images
            if ending != region and old not in sample.sdata.shapes and known:
                current[region] = {**facts, **names}
                current.pop(old, None)
    return current


def maker(record: Mapping[str, Any]) -> str:
    """Return the function that made patches, for messages."""
    return f"sp.{record.get('function', 'pp.patches')}"


def region_facts(record: dict[str, Any], section: Section) -> dict[str, Any]:
    """Return the record of a section's patches; raise if it has none."""
    if section.region not in record["regions"]:
        raise KeyError(f"{section.name} has no patches; run sp.pp.patches for every region first.")
    return record["regions"][section.region]


def placed_patches(sample: Sample, section: Section, record: dict[str, Any]) -> PlacedPatches:
    """Return the patches of a section, row by row; raise if it has none, or if it is not known where they lie.

    Squares are mapped to the image through the transformations that both have now, so that a crop, a rescaled image or
    a new registration are followed. An image that was replaced without a word about how it lies is refused.
    """
    facts = region_facts(record, section)
    squares = _rows(sample, section, record)
    image = sample.sdata.images[facts["image"]]
    frame = facts.get("frame")
    size = image_size(image)
    if frame is not None and pixel_growth({**frame, "coordinate_system": facts["coordinate_system"]}, image) is None:
        raise ValueError(
            f"{section.name}: images[{facts['image']!r}] had {frame['width']} × {frame['height']} pixels when its "
            f"patches were made and has {size[0]} × {size[1]} now, and its transformation does not say whether it was "
            f"cropped or resampled. Run {maker(record)}(samples, mpp=...) again, with the µm/px that it has now."
        )
    matrix = pixels_of(sample.sdata, squares, facts["image"], facts["coordinate_system"], section.name)
    longest, shortest = scale_factors(matrix)
    if longest > (1 + ISOTROPY) * shortest:
        raise ValueError(
            f"{section.name}: the transformation from shapes[{facts['element']!r}] to images[{facts['image']!r}] "
            f"stretches one axis {longest / shortest:.2f} times as much as the other. Run {maker(record)} again."
        )
    recorded = record["size_um"] / facts["mpp"]
    side = _side(squares, section, record) * float(np.sqrt(longest * shortest))
    ratio = 1.0 if abs(side / recorded - 1) < ROUNDING else side / recorded
    moved = not np.allclose(matrix, np.eye(3), rtol=0, atol=ROUNDING)
    centres = shapely.get_coordinates(squares.geometry.centroid.to_numpy())
    if moved:
        centres = centres @ matrix[:2, :2].T + matrix[:2, 2]
    resized = frame is not None and size != (int(frame["width"]), int(frame["height"]))
    return PlacedPatches(
        image_key=facts["image"],
        coordinate_system=facts["coordinate_system"],
        image=image,
        size=size,
        centres=centres,
        side=recorded * ratio,
        mpp=facts["mpp"] / ratio,
        moved=moved or resized,
    )


def _rows(sample: Sample, section: Section, record: dict[str, Any]) -> GeoDataFrame:
    """Return the square of every row of a section."""
    facts = region_facts(record, section)
    squares = sample.sdata.shapes[facts["element"]]
    positions = pd.Index(squares.index).get_indexer(section.ids)
    if (positions < 0).any():
        raise KeyError(
            f"{section.name}: {int((positions < 0).sum())} rows have no patch in shapes[{facts['element']!r}], such as "
            f"{shorten(section.ids[positions < 0])}. Run {maker(record)} again."
        )
    return squares.iloc[positions]


def _side(squares: GeoDataFrame, section: Section, record: dict[str, Any]) -> float:
    """Return the side of the squares in their own coordinates; raise if some were cut."""
    facts = region_facts(record, section)
    sides = np.sqrt(squares.geometry.area.to_numpy())
    side = float(np.median(sides)) if len(sides) else float("nan")
    if n_cut := int((np.abs(sides - side) > CUT * side).sum()):
        raise ValueError(
            f"{section.name}: {n_cut} of {len(sides)} squares in shapes[{facts['element']!r}] differ in size from the "
            f"others, as after a query that clips shapes. Run {maker(record)} again."
        )
    return side


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
            centres[section.rows] = placed_patches(sample, section, record).points
    return centres, float(record["size_um"])


def _has_patches(sample: Sample, patches_key: str) -> bool:
    """Whether there are patches whose shapes and images are at hand."""
    regions = _keys.read_provenance(sample.table.uns, check_text("patches_key", patches_key)).get("regions", {})
    current = _renamed(dict(regions), sample)
    return bool(current) and all(
        facts["element"] in sample.sdata.shapes and facts["image"] in sample.sdata.images for facts in current.values()
    )
