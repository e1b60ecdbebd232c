"""Slides, tiles and features of LazySlide."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from xarray import DataArray, DataTree

from spade._checks import plural, shorten
from spade.core.checks import check_text
from spade.io._neighbours.opened import check_options, chosen_tables, opened, settled_mpp, table_of, unique_ids
from spade.io._neighbours.pictures import as_slide
from spade.io._neighbours.tiles import (
    Tiles,
    check_squares,
    joined_features,
    plain_columns,
    settle_size,
    tiled_slide,
    to_pixels,
)
from spade.io._recorded.bounds import stated_bounds
from spade.io._recorded.frames import image_size

if TYPE_CHECKING:
    from spatialdata import SpatialData

logger = logging.getLogger("spade")
FUNCTION = "io.from_lazyslide"
#: Keys of ``attrs``, and columns of tiles that are no results.
SPEC, PROPERTIES = "tile_spec", "slide_properties"
PLACES = ("geometry", "tile_id", "x", "y")


def from_lazyslide(
    wsi: SpatialData | str | PathLike[str],
    *,
    image: str | PathLike[str] | DataArray | DataTree | None = None,
    mpp: float | None = None,
    size_um: float | None = None,
    tile_key: str = "tiles",
    features: str | Sequence[str] | None = None,
    sample_id: str | None = None,
    image_key: str = "he",
) -> SpatialData:
    """Take over a slide of LazySlide: tiles, features and tissue, as :func:`spade.pp.tiles` and its like make them.

    The object that is passed is not changed.

    Parameters
    ----------
    wsi
        A ``WSIData`` of LazySlide, or the ``SpatialData`` or path of the store that it was saved as.
    image
        The slide: a path, read lazily, or an image element. None: the file that the ``WSIData`` reads, else the image
        in it that has the size of the slide. A store does not know the file of its slide.
    mpp
        Microns per pixel of the finest level. None: what LazySlide knows.
    size_um
        Side of a tile in µm, within 5 % of the one measured; state it so that it is the same for all slides. None:
        what was asked of LazySlide, if its tiles have this size up to a pixel, else what is measured.
    tile_key
        Shapes with the tiles.
    features
        Tables with features, one row per tile. None: all whose name ends in ``_{tile_key}``, as LazySlide names them.
    sample_id
        Name of the sample. None: that of the file.
    image_key
        Name of the image element.

    Returns
    -------
    SpatialData
        Image ``image_key``; ``shapes["tiles"]``; ``tables["tiles_table"]`` of width 0 with ``obsm["X_<model>"]`` for
        every table of features, ``obs["tile_id"]``, ``obs["spade_valid"]`` and the columns of the tiles; and
        ``shapes["tissue"]``, the outlines in which the tiles were laid. Size, image and µm/px are in
        ``uns["spade"]["patches"]``; µm/px of the image, and what the file of the slide states, are in ``attrs``.
        Nothing else is taken over.

    Raises
    ------
    FileNotFoundError
        If the slide or the store is not there.
    KeyError
        If there are no such tiles, no record of them or no such tables.
    ValueError
        If the image is not known or of another size, µm/px are not known or contradict each other, tiles are not
        square, features do not have one row for each tile, or are not finite.

    Warns
    -----
    UserWarning
        If centres of tiles lie off the image; these get NaN features.

    Notes
    -----
    Written for LazySlide 0.13 and wsidata 0.12: tiles in ``shapes``, facts in ``attrs["tile_spec"]`` and
    ``attrs["slide_properties"]``, features in ``X`` of ``tables["{model}_{tile_key}"]``. LazySlide rounds sides of
    tiles to whole pixels; here they have the size that was asked for, about the same centres.

    Examples
    --------
    One tile in the layout of LazySlide, on a toy image:

    >>> import spade as sp
    >>> from geopandas import GeoDataFrame
    >>> from shapely import box
    >>> from spatialdata import SpatialData
    >>> from spatialdata.models import ShapesModel
    >>> (toy,) = sp.datasets.toy(1, 30)
    >>> tile = GeoDataFrame({"tile_id": [0]}, geometry=[box(64, 32, 288, 256)])
    >>> spec = {"width": 224, "height": 224, "stride_width": 224, "stride_height": 224, "mpp": 0.5}
    >>> wsi = SpatialData(
    ...     shapes={"tiles": ShapesModel.parse(tile)},
    ...     attrs={"tile_spec": {"tiles": spec}, "slide_properties": {"mpp": 0.5}},
    ... )
    >>> sdata = sp.io.from_lazyslide(wsi, image=toy["image"])
    >>> sp.pp.encode_patches(sdata)
    >>> sdata["tiles_table"].obsm["spatial"].tolist(), sdata["tiles_table"].obsm["X_texture"].shape
    ([[176.0, 144.0]], (1, 184))
    """
    check_options(mpp=mpp, size_um=size_um, tile_key=tile_key, sample_id=sample_id, image_key=image_key)
    source = opened(wsi, "wsi")
    spec, properties = _spec(source, tile_key), dict(source.attrs.get(PROPERTIES, {}))
    given = image if image is not None else _file(source)
    scale = settled_mpp(mpp, properties.get("mpp"), "the object")
    picture, slide = as_slide(_image(source, properties) if given is None else given, "image")
    stated = properties.get("shape")
    if stated is not None and tuple(map(int, stated)) != image_size(picture)[::-1]:
        raise ValueError(
            f"image: got {' × '.join(map(str, image_size(picture)))} pixels, but the tiles were laid on a slide of "
            f"{int(stated[1])} × {int(stated[0])}. Give the same slide at its finest level."
        )
    tiles = _tiles(source, tile_key, spec, picture)
    size = settle_size(tiles, scale, size_um)
    if size_um is None:
        size = _asked(tiles, spec, scale, size, trusted=mpp is not None or properties.get("mpp") is None)
    ends = f"_{tile_key}"
    found = {
        name: name.removesuffix(ends)
        for name, table in source.tables.items()
        if name.endswith(ends) and table_of(table)[0] == tile_key
    }
    tables = chosen_tables(source, tile_key, features, found, "")
    outlines = spec.get("tissue_name")
    sdata = tiled_slide(
        image_key,
        picture,
        tiles,
        mpp=scale,
        size_um=size,
        features={
            name: joined_features(table, tiles.ids, table_of(table)[1], f"the table of {name!r}")
            for name, table in tables.items()
        },
        tissue=source.shapes[outlines] if outlines in source.shapes else None,
        function=FUNCTION,
        sample=sample_id or (Path(given).stem if isinstance(given, (str, PathLike)) else None),
        slide=slide or stated_bounds(properties, image_size(picture)),
    )
    logger.info("took over %s with features %s", plural(len(tiles.ids), "tile"), shorten(tables) or "none")
    return sdata


def _spec(source: SpatialData, tile_key: str) -> dict[str, Any]:
    """Return what is recorded about tiles; raise if they or the record are not there, or they are not square."""
    specs = source.attrs.get(SPEC, {})
    if tile_key not in source.shapes or tile_key not in specs:
        where = "shapes" if tile_key not in source.shapes else f"attrs[{SPEC!r}]"
        there = [key for key in specs if key in source.shapes]
        raise KeyError(
            f"tile_key={tile_key!r} is not in {where}; tiles: {shorten(there) or 'none'}. Lay them with "
            "lazyslide.pp.tile_tissues(wsi, …)."
        )
    spec = dict(specs[tile_key])
    if spec["width"] != spec["height"] or spec["stride_width"] != spec["stride_height"]:
        raise ValueError(
            f"tile_key={tile_key!r}: tiles of {spec['width']} × {spec['height']} pixels every {spec['stride_width']} × "
            f"{spec['stride_height']}; expected squares on a square grid. Lay square tiles."
        )
    return spec


def _file(source: SpatialData) -> str | None:
    """Return the file that a ``WSIData`` reads, None if there is none."""
    file = getattr(getattr(source, "reader", None), "file", None)
    return None if file is None else str(file)


def _image(source: SpatialData, properties: dict[str, Any]) -> DataArray | DataTree:
    """Return the image of an object that has the size of the slide."""
    stated = tuple(map(int, properties.get("shape", ())))
    fitting = [key for key in source.images if image_size(source.images[key])[::-1] == stated]
    if len(fitting) != 1:
        raise ValueError(
            f"image=None: {len(fitting)} of the images ({shorten(source.images) or 'none'}) have the size of the slide,"
            f" {' × '.join(map(str, stated[::-1])) or 'which is not recorded'}, and the object reads no file. Give the "
            "slide with image=."
        )
    return source.images[fitting[0]]


def _tiles(source: SpatialData, tile_key: str, spec: dict[str, Any], picture: DataTree) -> Tiles:
    """Return the tiles, in pixels of the slide."""
    shapes = source.shapes[tile_key]
    what = f"shapes[{check_text('tile_key', tile_key)!r}]"
    matrix = to_pixels(shapes, picture, what)
    boxes = check_squares(shapes.bounds.to_numpy() * matrix[0, 0] + [*matrix[:2, 2]] * 2, what)
    ids = pd.Index(shapes["tile_id"].to_numpy() if "tile_id" in shapes else shapes.index.to_numpy())
    return Tiles(
        boxes,
        unique_ids(ids, what),
        plain_columns(pd.DataFrame(shapes), PLACES),
        size_px=int(spec["width"]),
        overlap=max(0.0, 1 - spec["stride_width"] / spec["width"]),
    )


def _asked(tiles: Tiles, spec: dict[str, Any], mpp: float, measured: float, *, trusted: bool) -> float:
    """Return the size in µm that was asked of LazySlide, if tiles have it up to a pixel, else the measured one.

    ``trusted``: the µm/px that were asked for do not count, because LazySlide did not know, or was corrected.
    """
    if spec.get("mpp") is None:
        return measured
    asked = round(float(spec["mpp"]) * spec["width"], 6)
    if abs(asked / mpp - tiles.side) <= 1:
        return asked
    if trusted:
        return measured
    raise ValueError(
        f"the tiles are {tiles.side:g} px wide, {measured:.4g} µm at {mpp:.4g} µm/px, but {asked:g} µm were asked for: "
        "other µm/px held when they were laid. Give mpp=, microns per pixel of the finest level."
    )
