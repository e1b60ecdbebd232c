"""A grid of tiles on the tissue of a slide, with a table."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import get_transformation

from spade import _keys
from spade._checks import check_idle, plural
from spade._said.lines import speaks, wrote
from spade._samples.images import check_stained, image_levels, visible
from spade._samples.open import Samples, iter_slides
from spade._samples.placement import pixels_of
from spade._samples.sample import Opened
from spade._samples.shown.carried import put
from spade._samples.slides.elements import check_free, check_name, tissue_record, tissue_shapes
from spade._samples.slides.image import SlideImage, slide_image
from spade.core.arrays import Floats, Rows
from spade.core.checks import check_count, check_not_negative, check_positive, check_share, check_text
from spade.io._polygons import checked_areas
from spade.io._recorded.frames import frame_of
from spade.io._recorded.scale import record_scale
from spade.pp._scale import warn_if_coarse
from spade.pp._slides.outlines import covered_share
from spade.pp._slides.quality import tile_quality

logger = logging.getLogger("spade")
FUNCTION = "pp.tiles"
MIN_TISSUE = 0.5
#: Shares that differ by less than this are equal.
TIE = 1e-6


@dataclass(frozen=True)
class TileSettings:
    """Size and overlap of tiles, how much of them must be tissue and how good, and where that and they are stored."""

    size_um: float
    size_px: int
    overlap_um: float
    min_tissue: float
    max_blank: float | None
    min_sharpness: float | None
    tissue_key: str | None
    key_added: str

    def __post_init__(self) -> None:
        """Check all settings."""
        object.__setattr__(self, "size_um", check_positive("size_um", self.size_um, "µm"))
        object.__setattr__(self, "size_px", check_count("size_px", self.size_px))
        object.__setattr__(self, "overlap_um", check_not_negative("overlap_um", self.overlap_um, "µm"))
        if self.overlap_um >= self.size_um:
            raise ValueError(
                f"overlap_um={self.overlap_um:g}: expected less than size_um={self.size_um:g}, the side of a tile."
            )
        object.__setattr__(self, "min_tissue", check_share("min_tissue", self.min_tissue, "(0, 1]"))
        if self.max_blank is not None:
            object.__setattr__(self, "max_blank", check_share("max_blank", self.max_blank, "[0, 1)"))
        if self.min_sharpness is not None:
            check_positive("min_sharpness", self.min_sharpness, "squared grey levels")
        if self.tissue_key is not None:
            check_text("tissue_key", self.tissue_key)
        else:
            check_idle([("min_tissue", self.min_tissue, MIN_TISSUE)], "with tissue_key=None the whole image is taken")
        if check_name(self.key_added) == self.tissue_key:
            raise ValueError(f"key_added={self.key_added!r}: the tiles would replace the outlines tissue_key=.")

    @property
    def looked_at(self) -> list[str]:
        """What is measured of the pixels of tiles."""
        limits = {"blank_share": self.max_blank, "sharpness": self.min_sharpness}
        return [measure for measure, limit in limits.items() if limit is not None]


@speaks
def tiles(
    samples: Samples,
    *,
    size_um: float = 112.0,
    size_px: int = 224,
    overlap_um: float = 0,
    min_tissue: float = MIN_TISSUE,
    max_blank: float | None = None,
    min_sharpness: float | None = None,
    tissue_key: str | None = _keys.TISSUE,
    image_key: str | None = None,
    mpp: float | None = None,
    key_added: str = _keys.TILES,
) -> None:
    """Lay a grid of square tiles on the tissue of slides, with a table of one row per tile.

    What takes spots takes tiles: :func:`encode_patches`, ``tl.embed``, ``tl.predict_expression``,
    ``pl.expert_clusters`` and so on read the new table, whose tiles are its patches. Beside a table of spots it is
    chosen by ``table_key="tiles"``. The grid begins in the upper left corner of the image. Only whole tiles count: at
    the right and the lower border less than one tile is left over.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these; a table is not needed.
    size_um
        Side of a tile in µm.
    size_px
        Side of a tile in pixels once it is read: ``size_um / size_px`` is its resolution in µm/px.
    overlap_um
        By how much neighbouring tiles overlap, in µm.
    min_tissue
        Least share of a tile that is tissue, above 0 and up to 1.
    max_blank
        Largest share of a tile's pixels that have no colour: glass within the tissue, grey, black. From 0 on, below 1.
        None: the pixels are not read.
    min_sharpness
        Least sharpness of a tile: the variance of the Laplacian of its grey levels, 0 to 255, at ``size_px``
        (Pech-Pacheco et al., ICPR 2000). It depends on scanner, stain and resolution: give a small value, look at
        ``obs["sharpness"]`` and :func:`spade.pl.tiles`, then choose. None: not looked at.
    tissue_key
        Shapes with outlines of the tissue, found by :func:`tissue` or drawn; their transformations map them to the
        image. None: the whole image is taken, except what is wholly transparent.
    image_key
        H&E image; None: the one on which the tissue was found, the only 8-bit RGB image, or the finest of several that
        show the same area.
    mpp
        Microns per pixel of the image at its finest level; None: what a reader of this package or an earlier step
        recorded.
    key_added
        Name of the shapes element; that of the table is ``{key_added}_table``.

    Returns
    -------
    None
        Writes ``shapes[key_added]``, squares in the pixel frame of the image with its transformations, and
        ``tables["tiles_table"]`` (``{key_added}_table``), of width 0, which annotates them: ``obs["tile_row"]`` and
        ``obs["tile_col"]``, the place in the grid, which also names the tile; ``obs["tissue_share"]``;
        ``obs["blank_share"]`` and ``obs["sharpness"]``, where they were asked for; ``obs["spade_valid"]``, True; and
        ``obsm["spatial"]``, centres (x, y) in pixels. Size, image, coordinate system and µm/px are in
        ``uns["spade"]["patches"]``. Earlier tiles are replaced, with all that their table holds, unless the new ones
        are the same: laid in the same way, at the same places, with the same shares and sharpness. Pixels that were not
        asked for are not compared: if the image was replaced, encode the tiles anew.

    Raises
    ------
    KeyError
        No outlines of tissue (run :func:`tissue`), or an image that is not there.
    ValueError
        No tile with enough tissue or of that quality, a slide smaller than a tile, an overlap as large as a tile, no or
        several possible images, µm/px unknown, a name that is in use.

    Examples
    --------
    >>> import spade as sp
    >>> (sdata,) = sp.datasets.toy(1, 30)
    >>> del sdata.tables["table"], sdata.shapes["spots"]  # a slide without spots
    >>> sp.pp.tissue(sdata)
    >>> sp.pp.tiles(sdata)
    >>> sp.pp.encode_patches(sdata)
    >>> sdata["tiles_table"].obsm["X_texture"].shape == (len(sdata["tiles"]), 184)
    True
    """
    settings = TileSettings(
        size_um, size_px, overlap_um, min_tissue, max_blank, min_sharpness, tissue_key=tissue_key, key_added=key_added
    )
    if image_key is not None:
        check_text("image_key", image_key)
    if mpp is not None:
        mpp = check_positive("mpp", mpp, "microns per pixel")
    table_key = _keys.tile_table(key_added)
    elements = (f"shapes/{key_added}", f"tables/{table_key}")
    for slide in iter_slides(samples, *elements, writes=True):
        old = slide.sdata.tables.get(table_key)
        own = old is not None and _keys.read_provenance(old.uns, _keys.PATCHES).get("function") == FUNCTION
        check_free(slide, elements, key_added, FUNCTION, own=own)
        image = _image(slide, settings, image_key, mpp)
        made = _lay_tiles(slide, image, settings)
        if old is not None and key_added in slide.sdata.shapes and _same(old, made[1]):
            logger.info("%s: tables[%r] has these %d tiles already and is kept", slide.name, table_key, old.n_obs)
            continue
        for element, value in zip(elements, made, strict=True):
            put(slide.sdata, element, value)
        if mpp is not None:
            record_scale(slide.sdata, mpp={image.key: mpp})
        slide.save(*elements)
        keys = f"shapes[{key_added!r}]", f"tables[{table_key!r}]"
        wrote(slide.name, *keys, detail=plural(len(made[0]), "tile"))


def _image(slide: Opened, settings: TileSettings, image_key: str | None, mpp: float | None) -> SlideImage:
    """Return the image of a slide: the one that was named, or that on which the tissue was found, or the only one."""
    if settings.tissue_key is not None and image_key is None:
        tissue_shapes(slide, settings.tissue_key)
        image_key = _keys.read_provenance(slide.sdata.attrs, settings.tissue_key).get("image")
    image = slide_image(slide, image_key, mpp)
    if settings.tissue_key is None:  # else tissue was found in it
        check_stained(image.element, image.key, slide.name, named=image_key is not None)
    warn_if_coarse(slide.name, image.key, image.mpp, settings.size_um / settings.size_px)
    return image


def _lay_tiles(slide: Opened, image: SlideImage, settings: TileSettings) -> tuple[GeoDataFrame, ad.AnnData]:
    """Return the tiles of a slide and their table; raise if there are none."""
    rows, columns, centres = _grid(slide, image, settings)
    side = settings.size_um / image.mpp
    squares = _squares(centres, side)
    share: Floats = np.ones(len(rows))
    if settings.tissue_key is not None:
        share = covered_share(squares, _areas(slide, image, settings.tissue_key))
    kept = share >= settings.min_tissue - TIE
    if not kept.any():
        raise ValueError(
            f"{slide.name}: none of {len(kept)} tiles of {settings.size_um:g} µm is tissue to min_tissue="
            f"{settings.min_tissue:g}; the largest share is {share.max():.2g}. Lower min_tissue= or size_um=."
        )
    levels = image_levels(image.element)
    kept &= visible(levels, centres, kept, side, settings.size_px)
    if not kept.any():
        raise ValueError(f"{slide.name}: all tiles on tissue are wholly transparent on images[{image.key!r}].")
    quality = tile_quality(slide.name, levels, centres[kept], side, settings.size_px, settings.looked_at)
    kept[kept] = good = _good(slide.name, kept.sum(), quality, settings)
    names = pd.Index([f"tile_{row:04d}_{column:04d}" for row, column in zip(rows[kept], columns[kept], strict=True)])
    obs = pd.DataFrame({"tile_row": rows[kept], "tile_col": columns[kept]}, index=names)
    obs[_keys.TISSUE_SHARE] = share[kept]
    obs = obs.assign(**{name: values[good] for name, values in quality.items()})
    shapes = ShapesModel.parse(
        GeoDataFrame(geometry=squares[kept], index=names),
        transformations=get_transformation(image.element, get_all=True),
    )
    return shapes, _table(slide, image, settings, obs, centres[kept])


def _good(name: str, n: int, quality: dict[str, Floats], settings: TileSettings) -> NDArray[np.bool_]:
    """Return which tiles are good enough; raise if none is."""
    good, found = np.ones(n, dtype=bool), []
    if settings.max_blank is not None:
        share = quality["blank_share"]
        good &= share <= settings.max_blank + TIE
        found.append(f"max_blank={settings.max_blank:g} (the least share is {share.min():.2g})")
    if settings.min_sharpness is not None:
        sharp = quality["sharpness"]
        good &= sharp >= settings.min_sharpness
        found.append(f"min_sharpness={settings.min_sharpness:g} (the sharpest has {sharp.max():.3g})")
    if not good.any():
        raise ValueError(f"{name}: none of {n} tiles on tissue passes {' and '.join(found)}. Loosen it.")
    return good


def _grid(slide: Opened, image: SlideImage, settings: TileSettings) -> tuple[Rows, Rows, Floats]:
    """Return row, column and centre (x, y) in pixels of every whole tile of an image, row by row."""
    side, step = (length / image.mpp for length in (settings.size_um, settings.size_um - settings.overlap_um))
    width, height = image.size
    if side > min(width, height) * (1 + TIE):
        raise ValueError(
            f"{slide.name}: size_um={settings.size_um:g}: a tile is larger than images[{image.key!r}], which has "
            f"{width * image.mpp:.4g} × {height * image.mpp:.4g} µm at {image.mpp:.4g} µm/px. Check mpp=, or lower "
            "size_um=."
        )
    n_rows, n_columns = (int((length * (1 + TIE) - side) // step) + 1 for length in (height, width))
    rows, columns = (axis.ravel() for axis in np.indices((n_rows, n_columns)))
    return rows, columns, np.column_stack([columns, rows]) * step + side / 2


def _squares(centres: Floats, side: float) -> NDArray[np.object_]:
    (x, y), half = centres.T, side / 2
    return np.asarray(shapely.box(x - half, y - half, x + half, y + half))


def _areas(slide: Opened, image: SlideImage, tissue_key: str) -> NDArray[np.object_]:
    """Return outlines of tissue in pixels of an image; raise if they are no areas."""
    outlines, where = tissue_shapes(slide, tissue_key), f"{slide.name}: tissue_key={tissue_key!r}"
    areas, _ = checked_areas(outlines.geometry.to_numpy(), list(map(str, outlines.index)), where)
    matrix = pixels_of(slide.sdata, outlines, image.key, image.coordinate_system, slide.name)
    return np.asarray(shapely.transform(areas, lambda points: points @ matrix[:2, :2].T + matrix[:2, 2]))


def _table(slide: Opened, image: SlideImage, settings: TileSettings, obs: pd.DataFrame, centres: Floats) -> ad.AnnData:
    """Return the table of tiles, with the record that patches of spots have."""
    key, tissue_key = settings.key_added, settings.tissue_key
    obs = obs.assign(**{"region": pd.Categorical([key] * len(obs)), "tile_id": obs.index.to_numpy(), _keys.VALID: True})
    table = ad.AnnData(csr_matrix((len(obs), 0), dtype=np.float32), obs=obs, obsm={"spatial": centres})
    table = TableModel.parse(table, region=key, region_key="region", instance_key="tile_id")
    if tissue_key is not None:
        _keys.write_provenance(table.uns, tissue_key, **tissue_record(slide, tissue_key))
    record: _keys.RegionRecord = {
        "element": key,
        "image": image.key,
        "coordinate_system": image.coordinate_system,
        "mpp": image.mpp,
        "frame": dict(frame_of(image.element, image.coordinate_system)),
    }
    facts = {name: value for name, value in vars(settings).items() if name != "key_added"} | {"regions": {key: record}}
    sources = () if tissue_key is None else (tissue_key,)
    _keys.write_provenance(table.uns, _keys.PATCHES, *sources, function=FUNCTION, **facts)
    return table


def _same(old: ad.AnnData, new: ad.AnnData) -> bool:
    """Whether a table has the tiles, made in the same way and measured alike, of another."""
    ids = [_keys.record_id(table.uns, _keys.PATCHES) for table in (old, new)]
    if ids[0] != ids[1] or not old.obs_names.equals(new.obs_names):
        return False
    measured = [name for name in (_keys.TISSUE_SHARE, "blank_share", "sharpness") if name in new.obs]
    return all(name in old.obs and np.allclose(old.obs[name], new.obs[name], rtol=TIE, atol=TIE) for name in measured)
