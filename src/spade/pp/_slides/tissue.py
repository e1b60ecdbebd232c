"""Where a slide shows tissue."""

from __future__ import annotations

import numpy as np
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from spatialdata.models import ShapesModel
from spatialdata.transformations import get_transformation

from spade import _keys
from spade._checks import plural
from spade._said.lines import speaks, wrote
from spade._samples.images import image_levels
from spade._samples.open import Samples, iter_slides
from spade._samples.sample import Opened
from spade._samples.shown.carried import put
from spade._samples.slides.elements import check_free, check_name, tissue_record
from spade._samples.slides.image import SlideImage, slide_image
from spade.core.checks import check_positive, check_text
from spade.core.patches.overview import read_region
from spade.core.patches.tissue import RESOLUTION_UM, TissueSettings, find_tissue
from spade.io._recorded.scale import record_scale
from spade.pp._slides.outlines import outlines

FUNCTION = "pp.tissue"


@speaks
def tissue(
    samples: Samples,
    *,
    image_key: str | None = None,
    mpp: float | None = None,
    min_area_mm2: float = TissueSettings.min_area_mm2,
    max_hole_mm2: float = TissueSettings.max_hole_mm2,
    drop_pen: bool = TissueSettings.drop_pen,
    drop_folds: bool = TissueSettings.drop_folds,
    key_added: str = _keys.TISSUE,
) -> None:
    """Outline the tissue on slides stained with H&E.

    The slide is read once, at about 8 µm/px and from the nearest level of its pyramid; memory holds that picture. Both
    stains absorb green most: pixels where they do, beyond a threshold of Otsu's, are tissue. The colour of the glass is
    taken from the picture, so that a tint of the glass does not count. Dust, bubbles and printed frames are grey and
    left out. Look at the result with :func:`spade.pl.tiles`.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these; a table is not needed.
    image_key
        H&E image; None: the only 8-bit RGB image, or the finest of several that show the same area.
    mpp
        Microns per pixel of the image at its finest level; None: what a reader of this package or an earlier step
        recorded. What is stated here is recorded in ``attrs["spade"]`` for later steps.
    min_area_mm2
        Smaller pieces are left out.
    max_hole_mm2
        Smaller holes are filled.
    drop_pen
        Whether pen marks on glass are left out, and tissue below them is cut out: blue, green and black ink, and red
        ink if it is much redder than blood. Where dark tissue shows through ink, it may stay. False for other stains,
        which are blue or green themselves.
    drop_folds
        Whether folds are cut out: what is 1.4 times as dense as nine tenths of the tissue are at most. A fold is
        tissue, so it is kept by default. Folds of pale tissue look like dark tissue and are not found, and the darkest
        tissue is cut out too (up to 1.5 % in ten sections without folds).
    key_added
        Name of the shapes element.

    Returns
    -------
    None
        Writes ``shapes[key_added]``: one polygon per piece of tissue, the largest first, with its holes, in the pixel
        frame of the image and with the image's transformations; ``area_mm2`` is its area. The settings are in
        ``attrs["spade"][key_added]``. Tiles that were made from earlier outlines are outdated if these differ, and so
        is what was made from the tiles.

    Raises
    ------
    KeyError
        An image that is not there.
    ValueError
        No tissue, no or several possible images, an image that is not RGB (as of fluorescence), µm/px unknown, a name
        that is in use.

    Examples
    --------
    >>> import spade as sp
    >>> (sdata,) = sp.datasets.toy(1, 30)
    >>> del sdata.tables["table"], sdata.shapes["spots"]  # a slide without spots
    >>> sp.pp.tissue(sdata)
    >>> len(sdata["tissue"])
    1
    """
    settings = TissueSettings(min_area_mm2, max_hole_mm2, drop_pen, drop_folds)
    if image_key is not None:
        check_text("image_key", image_key)
    if mpp is not None:
        mpp = check_positive("mpp", mpp, "microns per pixel")
    element = f"shapes/{check_name(key_added)}"
    for slide in iter_slides(samples, element, writes=True):
        own = _keys.read_provenance(slide.sdata.attrs, key_added).get("function") == FUNCTION
        check_free(slide, [element], key_added, FUNCTION, own=own)
        image = slide_image(slide, image_key, mpp)
        found = _pieces(slide, image, settings)
        put(slide.sdata, element, found)
        if mpp is not None:
            record_scale(slide.sdata, mpp={image.key: mpp})
        facts = {**tissue_record(slide, key_added), "image": image.key, **vars(settings)}
        _keys.write_provenance(slide.sdata.attrs, key_added, **facts)
        slide.save(element, *_outdate_tiles(slide, key_added))
        area = f"{found['area_mm2'].sum():.3g} mm² of tissue in {plural(len(found), 'piece')}"
        wrote(slide.name, f"shapes[{key_added!r}]", detail=area)


def _pieces(slide: Opened, image: SlideImage, settings: TissueSettings) -> GeoDataFrame:
    """Return the outlines of the tissue; raise if there is none."""
    width, height = image.size
    most_px = round(max(width, height) * image.mpp / RESOLUTION_UM)
    picture, box = read_region(image_levels(image.element), np.array([0.0, 0, width, height]), max(1, most_px))
    scale = box[2:] / picture.shape[1::-1]
    mask = find_tissue(picture, float(np.sqrt(np.prod(scale))) * image.mpp, settings)
    if not mask.any():
        raise ValueError(
            f"{slide.name}: no tissue found on images[{image.key!r}] ({width} × {height} px at {image.mpp:.3g} µm/px, "
            f"median colour {_colour(picture)}): no piece of {settings.min_area_mm2:g} mm² has the colours of H&E. "
            "Check the image and mpp=, lower min_area_mm2=, or leave the slide out."
        )
    polygons = shapely.transform(outlines(mask), lambda points: points * scale)
    area = shapely.area(polygons) * image.mpp**2 / 1e6
    frame = GeoDataFrame({"area_mm2": area}, geometry=polygons)
    return ShapesModel.parse(frame, transformations=get_transformation(image.element, get_all=True))


def _colour(picture: NDArray[np.uint8]) -> str:
    red, green, blue = np.median(picture.reshape(-1, 3), axis=0).astype(int)
    return f"red {red}, green {green}, blue {blue}"


def _outdate_tiles(slide: Opened, key: str) -> list[str]:
    """Write the record of outlines into the tables whose tiles were made from others; return these tables."""
    tables, record = [], tissue_record(slide, key)
    for name, table in slide.sdata.tables.items():
        old = _keys.read_provenance(table.uns, key)
        if old.get("function") == FUNCTION and old.get("outlines") != record["outlines"]:
            _keys.write_provenance(table.uns, key, **record)
            tables.append(f"tables/{name}")
    return tables
