"""Sections that scanpy or squidpy hold as AnnData."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from xarray import DataArray, DataTree

from spade._checks import plural, shorten
from spade._keys import TABLE
from spade.core.arrays import Floats
from spade.core.checks import check_text
from spade.core.spots.lattice import VISIUM_PITCH_UM, array_pitch, check_pitch, visium_mpp
from spade.io._neighbours.libraries import FULL, SPATIAL, Library, array_places, find_libraries, full_size, spot_centres
from spade.io._neighbours.opened import check_options
from spade.io._recorded.scale import record_scale
from spade.io._section import check_inside, free_column

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

logger = logging.getLogger("spade")
Picture = str | PathLike[str] | NDArray[Any] | DataArray | DataTree


def from_anndata(
    adata: AnnData,
    *,
    image: Picture | Mapping[str, Picture] | None = None,
    mpp: float | None = None,
    library_key: str | None = None,
    spatial_key: str = SPATIAL,
    spot_diameter_px: float | None = None,
    sample_id: str | None = None,
) -> SpatialData:
    """Take over spots, counts and images of an AnnData, as scanpy and squidpy hold them.

    The object that is passed is not changed. Counts stay as they are.

    Parameters
    ----------
    adata
        Spots with their place at full resolution, in pixels (x, y), in ``obsm[spatial_key]``; images and scale factors
        as Space Ranger writes them in ``uns["spatial"][library]``.
    image
        Image at full resolution: an array (height, width, 3 or 4) of uint8 or of floats from 0 to 1, an image element,
        or a path, read lazily. With several libraries, a dict from library to image. None: the images in ``uns``, in
        which nuclei cannot be seen.
    mpp
        Microns per pixel at full resolution, those of ``obsm[spatial_key]``. None: told from the spots if they are
        recognised as Visium by their lattice and diameter; else not recorded, and later steps ask for it.
    library_key
        ``obs`` column with the library of each spot, as squidpy has it. None: there is one library.
    spatial_key
        Key of ``obsm``.
    spot_diameter_px
        Diameter of a spot in pixels at full resolution. None: ``"spot_diameter_fullres"`` of the scale factors.
    sample_id
        Name of the sample. None: that of the library if there is one.

    Returns
    -------
    SpatialData
        For each library, circles ``"<library>"`` and images ``"<library>_full_image"`` (the one that was given),
        ``"<library>_hires_image"`` and ``"<library>_lowres_image"``; the table ``"table"``, which has all that
        ``adata`` has but ``uns["spatial"]``. The coordinate system is ``"global"``, or ``"<library>"`` of each of
        several, in pixels at full resolution; transformations lay the images on it. Where µm/px are known, they are
        recorded in ``attrs``.

    Raises
    ------
    KeyError
        If ``obsm[spatial_key]``, the column or the library of an image is not there.
    TypeError
        If ``adata`` is no AnnData, or an image is of another kind.
    ValueError
        If places are not two finite numbers or no pixels, spot names or array positions occur twice, an image has no
        scale factor or other channels, there is no image or no diameter, images differ in the area that they show,
        spots lie off the image, or ``mpp`` contradicts a Visium lattice by over 5 %.

    Warns
    -----
    UserWarning
        If some spots lie off the image, or a mask is left out, which is no picture.

    Examples
    --------
    >>> import numpy as np
    >>> import spade as sp
    >>> from anndata import AnnData
    >>> adata = AnnData(np.ones((4, 2), "float32"))
    >>> adata.obsm["spatial"] = np.array([[50, 50], [150, 50], [50, 150], [150, 150]])
    >>> picture = np.full((200, 200, 3), 230, "uint8")
    >>> sdata = sp.io.from_anndata(adata, image=picture, mpp=1.0, spot_diameter_px=55)
    >>> sorted(sdata.images), sorted(sdata.shapes), sdata.attrs["spade"]["mpp"]
    (['spatial_full_image'], ['spatial'], {'spatial_full_image': 1.0})
    """
    from anndata import AnnData
    from spatialdata import SpatialData
    from spatialdata.models import TableModel

    if not isinstance(adata, AnnData):
        raise TypeError(f"adata: got {type(adata).__name__}; expected an AnnData.")
    check_options(mpp=mpp, library_key=library_key, spot_diameter_px=spot_diameter_px, sample_id=sample_id)
    centres = spot_centres(adata, check_text("spatial_key", spatial_key))
    if not len(centres):
        raise ValueError("adata has no spots.")
    if not adata.obs_names.is_unique:
        twice = adata.obs_names[adata.obs_names.duplicated()].unique()
        raise ValueError(f"obs_names occur more than once, such as {shorten(twice, 3)}. Make them unique.")
    libraries = find_libraries(adata, library_key, image, spot_diameter_px)
    table = adata.to_memory() if adata.isbacked else adata.copy()
    table.uns = {key: value for key, value in adata.uns.items() if key not in (SPATIAL, TableModel.ATTRS_KEY)}
    table.obsm[SPATIAL] = centres
    region_key, instance_key = free_column(table, "region"), free_column(table, "spot_id")
    names = np.empty(len(centres), dtype=object)
    for library in libraries:
        names[library.rows] = library.name
    table.obs[region_key] = pd.Categorical(names)
    table.obs[instance_key] = table.obs_names.astype(str).to_numpy()
    sdata = SpatialData()
    for library in libraries:
        system = "global" if len(libraries) == 1 else library.name
        _add(sdata, library, adata, centres[library.rows], system, mpp)
    regions = [library.name for library in libraries]
    sdata.tables[TABLE] = TableModel.parse(
        table, region=regions[0] if len(regions) == 1 else regions, region_key=region_key, instance_key=instance_key
    )
    record_scale(sdata, sample=sample_id or (regions[0] if len(regions) == 1 and regions[0] != SPATIAL else None))
    logger.info("took over %s of %s", plural(len(centres), "spot"), shorten(regions))
    return sdata


def _add(sdata: SpatialData, library: Library, adata: AnnData, centres: Floats, system: str, mpp: float | None) -> None:
    """Add the circles and images of a library, and record its µm/px if they are known."""
    from geopandas import GeoDataFrame, points_from_xy
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity, Scale, set_transformation

    width, height = full_size(library)
    check_inside(centres, round(width), round(height), f"library {library.name!r}")
    radius = np.full(len(centres), library.diameter_px / 2)
    index = adata.obs_names[library.rows].astype(str).astype(object)
    circles = GeoDataFrame({"radius": radius}, geometry=points_from_xy(*centres.T), index=index)
    sdata.shapes[library.name] = ShapesModel.parse(circles, transformations={system: Identity()})
    array = array_places(adata, library)
    if array is not None and library.diameter_px >= (pitch := array_pitch(centres, array)):
        raise ValueError(
            f"library {library.name!r}: spots of {library.diameter_px:.4g} px would overlap, as neighbours are "
            f"{pitch:.4g} apart in obsm. Are these places µm? They must be pixels (x, y) at full resolution, as must "
            "spot_diameter_px=."
        )
    visium = visium_mpp(centres, radius, array)
    if mpp is not None and visium is not None:
        check_pitch(
            VISIUM_PITCH_UM / visium, mpp, VISIUM_PITCH_UM, f"library {library.name!r} (spots recognised as Visium)"
        )
    scale = visium if mpp is None else mpp
    keys = {f"{library.name}_{kind}_image": entry for kind, entry in library.images.items()}
    for key, (picture, factor) in keys.items():
        transformation = Identity() if factor == 1 else Scale([1 / factor, 1 / factor], axes=("x", "y"))
        set_transformation(picture, {system: transformation}, set_all=True)
        sdata.images[key] = picture
    record_scale(
        sdata,
        mpp=None if scale is None else {key: scale / factor for key, (_, factor) in keys.items()},
        pitch_um=None if visium is None else {library.name: VISIUM_PITCH_UM},
        slides={f"{library.name}_{FULL}_image": library.slide} if library.slide else None,
    )
