"""Spot-like squares with counts."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
from geopandas import GeoDataFrame
from scipy.sparse import csr_matrix
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import get_transformation

from spade import _keys
from spade._said.lines import speaks, wrote
from spade._samples.open import Samples, iter_slides, table_key_of
from spade._samples.sample import Opened, Sample
from spade._samples.shown.carried import put
from spade._samples.slides.elements import check_free
from spade.io._recorded.scale import record_scale
from spade.pp._bins.points import squares_of_points
from spade.pp._bins.rows import squares_of_rows
from spade.pp._bins.settings import MIN_QV, BinSettings
from spade.pp._bins.squares import Squares

logger = logging.getLogger("spade")
FUNCTION = "pp.bin_expression"
REGION, INSTANCE = "region", "bin_id"


@speaks
def bin_expression(
    samples: Samples,
    *,
    size_um: float,
    from_: str,
    points_key: str | None = None,
    feature_key: str | None = None,
    count_key: str | None = None,
    min_qv: float | None = MIN_QV,
    table_key: str | None = None,
    layer: str | None = None,
    image_key: str | None = None,
    mpp: float | None = None,
    min_counts: int = 1,
    key_added: str = _keys.BINS,
) -> None:
    """Make spot-like squares of transcripts, cells or smaller bins, with the sums of their counts.

    What takes spots takes the squares: :func:`patches`, :func:`encode_patches`, ``tl.train_spade`` and so on, with
    ``table_key="bins"``. They lie on the H&E image by the transformations of image and source, so that images that
    were registered later serve. Sums are exact whole numbers. Transcripts are read partition by partition.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these, as the readers of spatialdata-io
        return them.
    size_um
        Side of a square in µm. Of bins: a multiple of their side.
    from_
        ``"points"``: transcripts, each in the square that it lies in. ``"cells"``: rows of a table that annotates
        cells as circles, polygons or labels, each with all its counts in the square of its centre. ``"bins"``: rows of
        a table that annotates bins on a square lattice, as of Visium HD; a square holds whole bins, those with the
        same ``obs["array_row"] // n`` and ``obs["array_col"] // n`` as Space Ranger joins them, of Stereo-seq as SAW
        joins them, or counted from the first row and column where these are not known.
    points_key
        Of points: the element with the transcripts; may be left out when there is one.
    feature_key
        Of points: column with the gene; None: the one that the reader recorded.
    count_key
        Of points: column with the number of molecules at a point. None: each counts 1.
    min_qv
        Of points with a column ``qv``, as of Xenium: least quality. Those of less are left out, as Xenium does in its
        own counts. None: all count. Without such a column, any other value than the default is an error.
    table_key
        Of cells and bins: their table; may be left out when there is one.
    layer
        Of cells and bins: layer with raw counts; None: ``X``.
    image_key
        H&E image; None: the only 8-bit RGB image that shares a coordinate system with the source, or the finest of
        several that show the same area.
    mpp
        Microns per pixel of the image at its finest level. None: what was recorded, the bins of Visium HD by their
        name, cells by ``obs["cell_area"]``, the coordinates of Xenium and MERSCOPE, which are µm, or the distance of
        DNA spots that the cells of Stereo-seq state.
    min_counts
        Squares with fewer counts are left out.
    key_added
        Name of the shapes element; that of the table is ``{key_added}_table``.

    Returns
    -------
    None
        Writes ``shapes[key_added]``, squares in the pixel frame of the image with its transformations, and
        ``tables["bins_table"]`` (``{key_added}_table``), which annotates them: counts as sparse whole numbers;
        ``obs["array_row"]`` and ``obs["array_col"]``, the place in the grid; ``obs["n_cells"]`` or ``obs["n_bins"]``;
        and ``obsm["spatial"]``, centres (x, y) in pixels. Genes of transcripts are in alphabetical order, without
        control probes; those of a table as there, with all columns of ``var``. The µm/px is recorded for
        :func:`patches`. Bins that are not on tissue (``obs["in_tissue"]``), transcripts below ``min_qv`` and control
        probes are left out, and their number is logged. Earlier squares are replaced.

    Raises
    ------
    KeyError
        Points, a table, a column or an image that is not there; rows without a place.
    ValueError
        No or several possible sources or images, no coordinate system in common or several that contradict each other,
        µm/px unknown or contradicted, counts that are not raw, bins that do not lie on a lattice or fill no square, no
        square with enough counts.

    Examples
    --------
    >>> import spade as sp
    >>> (sdata,) = sp.datasets.toy(1, 60)
    >>> sp.pp.bin_expression(sdata, size_um=300, from_="cells")
    >>> sp.pp.patches(sdata, table_key="bins")
    >>> int(sdata["bins_table"].X.sum()) == int(sdata["table"].X.sum())
    True
    """
    settings = BinSettings(
        size_um, from_, points_key, feature_key, count_key, min_qv, layer, image_key, mpp, min_counts, key_added
    )
    added = _keys.tile_table(key_added)
    elements = (f"shapes/{key_added}", f"tables/{added}")
    for opened in iter_slides(samples, *elements, writes=True):
        old = opened.sdata.tables.get(added)
        own = old is not None and _keys.read_provenance(old.uns, key_added).get("function") == FUNCTION
        check_free(opened, elements, key_added, FUNCTION, own=own)
        squares, source = _binned(opened, settings, table_key, added)
        for element, value in zip(elements, _elements(opened, squares, source, settings), strict=True):
            put(opened.sdata, element, value)
        record_scale(opened.sdata, mpp={squares.frame.image_key: squares.frame.mpp})
        opened.save(*elements)
        wrote(opened.name, f"shapes[{key_added!r}]", f"tables[{added!r}]")


def _binned(opened: Opened, settings: BinSettings, table_key: str | None, added: str) -> tuple[Squares, str]:
    """Return the squares with counts, and the element or table that they were made of."""
    if settings.from_ == "points":
        if table_key is not None:
            raise ValueError('table_key= is of no use with from_="points"; leave it out.')
        return squares_of_points(opened, settings)
    key = table_key_of(opened.sdata, opened.name, table_key, besides=added)
    if key == added:
        raise ValueError(
            f"{opened.name}: key_added={settings.key_added!r}: the squares would replace tables[{key!r}], of which "
            "they are made. Choose another name."
        )
    sample = Sample(opened.name, opened.sdata, opened.path, table_key=key)
    return squares_of_rows(sample, settings), key


def _elements(opened: Opened, squares: Squares, source: str, settings: BinSettings) -> tuple[GeoDataFrame, ad.AnnData]:
    """Return the shapes and the table of squares with enough counts; raise if there are none."""
    kept = squares.at_least(settings.min_counts)
    if not kept.any():
        raise ValueError(
            f"{opened.name}: none of {len(kept)} squares of {settings.size_um:g} µm has min_counts="
            f"{settings.min_counts} counts. Lower min_counts= or min_qv=, or raise size_um=."
        )
    if not kept.all():
        logger.info(
            "%s: %d of %d squares have fewer than %d counts and are left out",
            opened.name, int((~kept).sum()), len(kept), settings.min_counts,
        )  # fmt: skip
    key, places, counts = settings.key_added, squares.places[kept], csr_matrix(squares.counts[kept])
    if counts.data.max() < 2**31:
        counts = counts.astype(np.int32)
    counts.sort_indices()  # sums come in the order of the rows
    names = pd.Index([f"bin_{row:04d}_{column:04d}" for row, column in places.tolist()])
    obs = pd.DataFrame({"array_row": places[:, 0], "array_col": places[:, 1]}, index=names)
    if squares.n_sources is not None:
        obs[f"n_{settings.from_}"] = squares.n_sources[kept]
    obs[REGION], obs[INSTANCE] = pd.Categorical([key] * len(obs)), names.to_numpy()
    table = ad.AnnData(counts, obs=obs, var=squares.var, obsm={"spatial": squares.centres[kept]})
    table = TableModel.parse(table, region=key, region_key=REGION, instance_key=INSTANCE)
    facts = {name: value for name, value in vars(settings).items() if name not in ("key_added", "mpp", "image_key")}
    image = squares.frame.image_key
    _keys.write_provenance(
        table.uns, key, function=FUNCTION, source=source, image=image, mpp=squares.frame.mpp, **facts
    )
    shapes = GeoDataFrame(geometry=squares.polygons[kept], index=names)
    transformations = get_transformation(opened.sdata.images[image], get_all=True)
    return ShapesModel.parse(shapes, transformations=transformations), table
