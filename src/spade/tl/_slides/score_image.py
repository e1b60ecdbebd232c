"""Values of tiles as an image layer on the slide."""

from __future__ import annotations

import logging
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from spatialdata.transformations import Scale, Sequence, get_transformation, set_transformation

from spade import _keys
from spade._said.lines import speaks, wrote
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.patches import patch_record, placed_patches
from spade._samples.sample import Opened, Sample, Section
from spade._samples.shown.carried import put
from spade._samples.shown.colours import Column, ColumnColours, join_color, read_color
from spade._samples.shown.heatmaps import painted_levels
from spade._samples.slides.elements import check_free, check_name
from spade.core.checks import check_positive, check_text
from spade.core.patches.heatmap import SquareRaster
from spade.io._images.multiscale import multiscale
from spade.io._recorded.scale import record_scale

logger = logging.getLogger("spade")
#: Pixels along the side of a patch, if their size is not given.
PER_SIDE = 8
#: Shares of a pixel below this are rounding.
ROUNDING = 1e-6


@speaks
def score_image(
    samples: Samples,
    color: str,
    *,
    um_per_px: float | None = None,
    layer: str | None = None,
    normalized: bool = False,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    key_added: str | None = None,
) -> None:
    """Write the values of tiles or patches as an image that lies on their slide.

    Viewers show it as a layer over the slide (napari-spatialdata, by their common coordinate system), and
    :func:`spade.io.write_ome_tiff` makes a file of it. Numbers become an image of one channel, float32, NaN where there
    is no value, so that a viewer chooses colours and contrast. Categories become an image in their colours (channels r,
    g, b and a, 8 bits), transparent where there is no value, the same colours in all samples of a call. Where patches
    overlap, the one with the nearest centre counts.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    color
        An ``obs`` column; a gene; or a column of ``obsm`` as ``"key:column"``, such as ``"spade_expert_weights:3"`` or
        ``"X_predicted:ERBB2"``. Values are written as they are, attention too.
    um_per_px
        Microns per pixel of the image. None: an eighth of the side of a patch, which is 14 µm of a tile of 112 µm.
    layer
        Layer with the expression of a gene; None: ``X``. Raw counts are written log-normalised.
    normalized
        Whether these values are normalised already and taken as they are.
    patches_key
        What :func:`spade.pp.patches` or :func:`spade.pp.tiles` (``"patches"``) wrote; it holds the image of the tiles.
    table_key
        Table; may be left out when there is one.
    key_added
        Name of the image. None: ``color``, with ``_`` for characters that a store refuses. With several sections, that
        of each ends in ``_`` and its region.

    Returns
    -------
    None
        Writes ``images[key_added]``, multiscale, over the whole image of the tiles (of a slide that QuPath opens
        cropped to its bounds, over the whole slide), with a transformation to each coordinate system of that image. It
        is painted chunk by chunk when it is read or saved, so that memory does not grow with it. An earlier one is
        replaced. Steps that look for the H&E image pass over it.

    Raises
    ------
    KeyError
        No such column, gene or representation (the message lists what there is), or no patches.
    ValueError
        A name that is in use, or tiles on tissue that was found anew since.

    Examples
    --------
    >>> import spade as sp
    >>> (sdata,) = sp.datasets.toy(1, 30)
    >>> sp.pp.tissue(sdata)
    >>> sp.pp.tiles(sdata)
    >>> sp.tl.score_image(sdata, "tissue_share", table_key="tiles")
    >>> sdata.attrs["spade"]["mpp"]["tissue_share"]
    14.0
    """
    if um_per_px is not None:
        um_per_px = check_positive("um_per_px", um_per_px, "µm/px")
    stem = check_name(_keys.storable(check_text("color", color)) if key_added is None else key_added)
    items = as_list(samples, writes=True)
    columns = _read(items, color, patches_key, table_key, layer, normalized=normalized)
    for sample, column in zip(iter_samples(items, table_key=table_key, writes=True), columns, strict=True):
        record, written = patch_record(sample, patches_key), []
        for section in sample.sections:
            if section.region not in record["regions"]:
                logger.warning("%s: no patches in %r, no image written", section.name, patches_key)
                continue
            key = stem if len(sample.sections) == 1 else f"{stem}_{section.region}"
            own = _keys.read_provenance(sample.sdata.attrs, key).get("function") == _keys.SCORE_IMAGE
            check_free(sample, [f"images/{key}"], key, _keys.SCORE_IMAGE, own=own)
            _put_image(sample, section, record, column, key, um_per_px)
            written.append(f"images/{key}")
        Opened.save(sample, *written)  # the table is as it was
        wrote(sample.name, *(f"images[{name.removeprefix('images/')!r}]" for name in written))


def _read(
    items: Samples, color: str, patches_key: str, table_key: str | None, layer: str | None, *, normalized: bool
) -> list[Column]:
    """Return the column of every sample, in which a category has the same colour as in all others."""
    read: list[ColumnColours] = []
    for sample in iter_samples(items, table_key=table_key):
        patch_record(sample, patches_key)
        read.append(read_color(sample, color, layer, normalized=normalized))
    joined = join_color(color, read)
    ends = np.cumsum([len(series) for series, _ in read])
    return [replace(joined, values=values) for values in np.split(joined.values, ends[:-1])]


def _put_image(
    sample: Sample, section: Section, record: dict[str, Any], column: Column, key: str, um_per_px: float | None
) -> None:
    """Put the image of one section into the object."""
    placed, sdata = placed_patches(sample, section, record), sample.sdata
    pixel = record["size_um"] / PER_SIDE if um_per_px is None else um_per_px
    width, height = (max(1, ceil(side * placed.mpp / pixel - ROUNDING)) for side in placed.size)
    raster = SquareRaster(placed.points, record["size_um"], (0.0, 0.0), pixel, (height, width))
    values: NDArray[Any]
    if column.colours is None:
        names, values = [column.name], np.append(column.values[section.rows], np.nan).astype(np.float32)[:, None]
    else:
        names, values = [*"rgba"], column.rgba(section.rows)
    image = multiscale(painted_levels(raster, values), names)
    enlarged = Scale([pixel / placed.mpp] * 2, axes=("x", "y"))
    of_slide = get_transformation(placed.image, get_all=True)
    set_transformation(image, {system: Sequence([enlarged, to]) for system, to in of_slide.items()}, set_all=True)
    put(sdata, f"images/{key}", image)
    record_scale(sdata, mpp={key: pixel})
    facts = {"color": column.name, "image": placed.image_key, "um_per_px": pixel}
    _keys.write_provenance(sdata.attrs, key, function=_keys.SCORE_IMAGE, **facts)
