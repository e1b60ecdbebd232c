"""Squares of tissue centred on the spots."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from spatialdata import SpatialData
from spatialdata.models import ShapesModel
from spatialdata.transformations import get_transformation

from spade import _keys
from spade._images import Placement, image_arrays, place
from spade._samples import Sample, Samples, Section, add_empty_table, as_list, iter_samples, shorten
from spade._scale import check_pitch, recorded_mpp, recorded_pitch, spot_pitch, visium_mpp

logger = logging.getLogger("spade")


def patches(
    samples: Samples,
    *,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    table_key: str | None = None,
    size_um: float = 112.0,
    size_px: int = 224,
    mpp: float | Mapping[str, float] | None = None,
    key_added: str = _keys.PATCHES,
) -> None:
    """Lay a square patch of tissue around every spot.

    Nothing is read from the image yet: the squares are stored as polygons in the pixel frame of the section's image, with
    the image's transformations, and read by :func:`encode_patches`. The defaults are those of the paper: 224 px at
    0.5 µm/px.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these.
    image_key
        H&E image, one name or a dict from region to name. None: the only 8-bit RGB image that shares a coordinate system
        with the spots, or the finest of several that show the same area.
    shapes_key
        Spots (circles) of an object that has no table yet: it gets one of width 0. With a table, restricts the call to
        this region.
    table_key
        Table; may be left out when there is one.
    size_um
        Side of a patch in µm.
    size_px
        Side of a patch in pixels once it is read: ``size_um / size_px`` is its resolution in µm/px.
    mpp
        Microns per pixel of the image at its finest level, one number or a dict from region to number. None: what a
        reader of this package recorded, else Visium if the spots are recognised as such.
    key_added
        Name of the shapes element.

    Returns
    -------
    None
        Writes ``shapes[key_added]`` (one square per spot, same index; ``{key_added}_{region}`` when the table has several
        regions), ``obs["spade_valid"]`` (whether the centre lies in the image; the part of a square beyond the border is
        filled by reflection) and, in ``uns["spade"]``, the image, coordinate system and µm/px of each region.

    Raises
    ------
    ValueError
        No or several possible images, no coordinate system in common, µm/px unknown or in conflict with the spots'
        pitch, duplicated instance ids, all patches off the image.
    KeyError
        An element or spot that is not there.

    Examples
    --------
    >>> import spade as sp
    >>> (sdata,) = sp.datasets.toy(1, 30)
    >>> sp.pp.patches(sdata)
    >>> len(sdata["patches"])
    30
    """
    _keys.check_key(key_added)
    for name, value in (("size_um", size_um), ("size_px", size_px)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value!r}: expected a positive number.")
    samples = as_list(samples)
    for item in samples:
        if isinstance(item, SpatialData) and not item.tables:
            add_empty_table(item, _only_shapes(item, shapes_key))
    for sample in iter_samples(samples, table_key=table_key):
        _lay_patches(sample, image_key, shapes_key, size_um, size_px, mpp, key_added)


def _only_shapes(sdata: SpatialData, shapes_key: str | None) -> str:
    if shapes_key is None and len(sdata.shapes) == 1:
        return next(iter(sdata.shapes))
    if shapes_key is None or shapes_key not in sdata.shapes:
        raise ValueError(
            f"shapes_key={shapes_key!r}: the object has no table, so the spots must be named; shapes: "
            f"{shorten(sdata.shapes) or 'none'}."
        )
    return shapes_key


def _lay_patches(
    sample: Sample,
    image_key: str | Mapping[str, str] | None,
    shapes_key: str | None,
    size_um: float,
    size_px: int,
    mpp: float | Mapping[str, float] | None,
    key_added: str,
) -> None:
    regions = [section.region for section in sample.sections]
    if shapes_key is not None and shapes_key not in regions:
        raise KeyError(f"{sample.name}: shapes_key={shapes_key!r} is not annotated; the table's regions: {regions}.")
    table = sample.table
    valid = (
        table.obs[_keys.VALID].to_numpy(dtype=bool, copy=True)
        if _keys.VALID in table.obs
        else np.zeros(table.n_obs, dtype=bool)
    )
    records = dict(_keys.read_provenance(table.uns, key_added).get("regions", {}))
    written, off = [], 0
    for section in sample.sections:
        if shapes_key is not None and section.region != shapes_key:
            continue
        chosen = image_key.get(section.region) if isinstance(image_key, Mapping) else image_key
        placement = place(sample.sdata, section.name, section.region, regions, chosen)
        stated = mpp.get(section.region) if isinstance(mpp, Mapping) else mpp
        scale = _microns_per_pixel(sample, section, placement, stated)
        if scale > 2 * size_um / size_px * (1 + 1e-6):
            warnings.warn(
                f"{section.name}: images[{placement.image_key!r}] has {scale:.3g} µm/px, coarser than twice the wanted "
                f"{size_um / size_px:.3g} µm/px: patches are enlarged {scale / (size_um / size_px):.1f} times and show no "
                "finer detail. Use the full-resolution image if there is one.",
                stacklevel=3,
            )
        element = key_added if len(regions) == 1 else f"{key_added}_{section.region}"
        inside = _write_squares(sample, section, placement, size_um / scale, element)
        rows = pd.Index(placement.index).get_indexer(section.ids)
        valid[section.rows] = inside[rows]
        off += int((~inside[rows]).sum())
        written.append(element)
        records[section.region] = {
            "element": element,
            "image": placement.image_key,
            "coordinate_system": placement.coordinate_system,
            "mpp": scale,
            "spot_diameter_um": float(2 * np.median(placement.radii) * scale),
        }
    if not valid.any():
        raise ValueError(
            f"{sample.name}: all {len(valid)} patches are off the image. Check the transformations of the spots and the "
            "image, and the order of x and y."
        )
    if off:
        warnings.warn(
            f"{sample.name}: the centres of {off} of {len(valid)} patches are off the image; they are marked "
            f"obs[{_keys.VALID!r}]=False, get NaN features and are left out of training.",
            stacklevel=3,
        )
    table.obs[_keys.VALID] = valid
    _keys.write_provenance(
        table.uns, key_added, function="pp.patches", size_um=float(size_um), size_px=int(size_px), regions=records
    )
    sample.save(*(f"shapes/{element}" for element in written))
    logger.info("%s: wrote shapes %s and obs[%r]", sample.name, shorten(written), _keys.VALID)


def _microns_per_pixel(sample: Sample, section: Section, placement: Placement, mpp: float | None) -> float:
    """Stated, recorded or recognised µm/px, checked against the spots' pitch where that is known."""
    pitch_px = spot_pitch(placement.centres)
    if mpp is not None and not (np.isfinite(mpp) and mpp > 0):
        raise ValueError(f"mpp={mpp!r}: expected a positive number of microns per pixel.")
    scale = mpp or recorded_mpp(sample.sdata, placement.image_key)
    visium = visium_mpp(placement.centres, placement.radii)
    pitch_um = recorded_pitch(sample.sdata, section.region)
    if scale is None and visium is None:
        raise ValueError(
            f"{section.name}: the microns per pixel of images[{placement.image_key!r}] are not known: no reader recorded them, and "
            f"the spots (median diameter {2 * np.median(placement.radii):.3g} px, pitch {pitch_px:.3g} px) are not "
            "recognised as Visium. Pass mpp= (µm per pixel of that image at its finest level)."
        )
    if scale is None:
        logger.info("%s: spots recognised as Visium; %.4g µm/px", section.name, visium)
        return float(visium)  # type: ignore[arg-type]
    if pitch_um is not None:
        check_pitch(pitch_px, scale, pitch_um, section.name)
    elif visium is not None:
        check_pitch(pitch_px, scale, visium * pitch_px, f"{section.name} (spots recognised as Visium)")
    return float(scale)


def _write_squares(
    sample: Sample, section: Section, placement: Placement, side: float, element: str
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Store the squares and return which centres lie in the image."""
    missing = section.ids.difference(pd.Index(placement.index))
    if len(missing):
        raise KeyError(
            f"{section.name}: {len(missing)} of {len(section.ids)} rows of the table have no spot in shapes[{section.region!r}], such "
            f"as {shorten(missing)}. Rows are joined by instance id; spots there are: {shorten(placement.index, 3)}."
        )
    image = sample.sdata.images[placement.image_key]
    (x, y), half = placement.centres.T, side / 2
    squares = GeoDataFrame(geometry=shapely.box(x - half, y - half, x + half, y + half), index=placement.index)
    sample.sdata.shapes[element] = ShapesModel.parse(squares, transformations=get_transformation(image, get_all=True))
    finest = image_arrays(image)[0]
    return placement.inside((finest.sizes["y"], finest.sizes["x"]))
