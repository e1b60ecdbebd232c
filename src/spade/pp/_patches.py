"""Squares of tissue centred on the spots."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from spatialdata import SpatialData
from spatialdata.models import ShapesModel
from spatialdata.transformations import get_transformation

from spade import _keys
from spade._checks import shorten
from spade._samples.images import image_arrays
from spade._samples.open import Samples, add_empty_table, as_list, iter_samples
from spade._samples.placement import SpotPlacement, place
from spade._samples.sample import Sample, Section
from spade.core.errors import warn
from spade.core.spots.lattice import VISIUM_PITCH_UM, check_pitch, check_spots, spot_pitch, visium_mpp
from spade.io._scale import recorded_mpp, recorded_pitch

logger = logging.getLogger("spade")
#: ``obs`` columns with the position of a spot as Space Ranger counts it.
ARRAY = ["array_row", "array_col"]


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
    if not (np.isfinite(size_um) and size_um > 0):
        raise ValueError(f"size_um={size_um!r}: expected a positive number of µm.")
    if size_px < 1 or size_px != int(size_px):
        raise ValueError(f"size_px={size_px!r}: expected a whole number of at least 1.")

    samples = as_list(samples)

    def add_table(sdata: SpatialData) -> None:
        add_empty_table(sdata, _only_shapes(sdata, shapes_key))

    named = {
        argument: value for argument, value in (("image_key", image_key), ("mpp", mpp)) if isinstance(value, Mapping)
    }
    if named:
        opened = iter_samples(samples, table_key=table_key, add_table=add_table)
        regions = {section.region for sample in opened for section in sample.sections}
        for argument, value in named.items():
            if unknown := sorted(set(value) - regions):
                raise KeyError(
                    f"{argument}= names {shorten(unknown)}, which no table has as a region; regions: {shorten(sorted(regions))}."
                )
    for sample in iter_samples(samples, table_key=table_key, add_table=add_table):
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
    squares: dict[str, GeoDataFrame] = {}
    off = 0
    for section in sample.sections:
        if shapes_key is not None and section.region != shapes_key:
            continue
        chosen = image_key.get(section.region) if isinstance(image_key, Mapping) else image_key
        placement = place(sample.sdata, section.name, section.region, regions, chosen)
        rows = _join(section, placement)
        stated = mpp.get(section.region) if isinstance(mpp, Mapping) else mpp
        scale = _microns_per_pixel(sample, section, placement, rows, stated)
        if scale > 2 * size_um / size_px * (1 + 1e-6):
            warn(
                f"{section.name}: images[{placement.image_key!r}] has {scale:.3g} µm/px, coarser than twice the wanted "
                f"{size_um / size_px:.3g} µm/px: patches are enlarged {scale / (size_um / size_px):.1f} times and show no "
                "finer detail. Use the full-resolution image if there is one."
            )
        element = key_added if len(regions) == 1 else f"{key_added}_{section.region}"
        if element in regions:
            raise ValueError(f"key_added={key_added!r}: the patches would replace the spots shapes[{element!r}].")
        finest = image_arrays(sample.sdata.images[placement.image_key])[0]
        inside = placement.inside((finest.sizes["y"], finest.sizes["x"]))[rows]
        valid[section.rows] = inside
        off += int((~inside).sum())
        squares[element] = _squares(sample, placement, size_um / scale)
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
        warn(
            f"{sample.name}: the centres of {off} of {len(valid)} patches are off the image; they are marked "
            f"obs[{_keys.VALID!r}]=False, get NaN features and are left out of training."
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*overwrit", category=UserWarning)
        for element, polygons in squares.items():
            sample.sdata.shapes[element] = polygons
    table.obs[_keys.VALID] = valid
    _keys.write_provenance(
        table.uns, key_added, function="pp.patches", size_um=float(size_um), size_px=int(size_px), regions=records
    )
    sample.save(*(f"shapes/{element}" for element in squares))
    logger.info("%s: wrote shapes %s and obs[%r]", sample.name, shorten(squares), _keys.VALID)


def _join(section: Section, placement: SpotPlacement) -> NDArray[np.int64]:
    """Return the position of every row's spot."""
    rows = pd.Index(placement.index).get_indexer(section.ids)
    missing = section.ids[rows < 0]
    if len(missing):
        raise KeyError(
            f"{section.name}: {len(missing)} of {len(section.ids)} rows of the table have no spot in shapes[{section.region!r}], such "
            f"as {shorten(missing)}. Rows are joined by instance id; spots there are: {shorten(placement.index, 3)}."
        )
    return rows


def _microns_per_pixel(
    sample: Sample, section: Section, placement: SpotPlacement, rows: NDArray[np.int64], mpp: float | None
) -> float:
    """Stated, recorded or recognised µm/px, checked against the spots' pitch where that is known."""
    pitch_px = spot_pitch(placement.centres)
    if mpp is not None and not (np.isfinite(mpp) and mpp > 0):
        raise ValueError(f"mpp={mpp!r}: expected a positive number of microns per pixel.")
    scale = mpp or recorded_mpp(sample.sdata, placement.image_key)
    obs = sample.table.obs.iloc[section.rows]
    array = obs[ARRAY].apply(pd.to_numeric, errors="coerce").to_numpy(float) if set(ARRAY) <= set(obs) else None
    visium = visium_mpp(placement.centres[rows], placement.radii[rows], array)
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
        check_spots(placement.centres, scale, pitch_um, section.name)
    elif visium is not None:
        check_pitch(VISIUM_PITCH_UM / visium, scale, VISIUM_PITCH_UM, f"{section.name} (spots recognised as Visium)")
    return float(scale)


def _squares(sample: Sample, placement: SpotPlacement, side: float) -> GeoDataFrame:
    """Return the square of every spot, in the pixel frame of the image and with its transformations."""
    (x, y), half = placement.centres.T, side / 2
    squares = GeoDataFrame(geometry=shapely.box(x - half, y - half, x + half, y + half), index=placement.index)
    image = sample.sdata.images[placement.image_key]
    return ShapesModel.parse(squares, transformations=get_transformation(image, get_all=True))
