"""Classic Spatial Transcriptomics (ST): one section from its count matrix, image and spot positions."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix

from spade.core.errors import warn

if TYPE_CHECKING:
    from spatialdata import SpatialData

from spade.core.spots.lattice import TOLERANCE, check_pitch
from spade.io._image import read_image, size
from spade.io._section import check_inside, section
from spade.io._st_files import array_keys, parse_ids, read_counts, read_labels, read_positions, some

logger = logging.getLogger("spade")


def read_st(
    counts: str | Path | None,
    image: str | Path,
    spots: str | Path | None = None,
    *,
    labels: str | Path | None = None,
    sample_id: str | None = None,
    array: tuple[int, int] = (33, 35),
    pitch_um: float = 200.0,
    spot_diameter_um: float = 100.0,
    mpp: float | None = None,
    duplicated_genes: Literal["error", "sum"] = "error",
) -> SpatialData:
    r"""Read one classic ST section.

    Files are joined by rounded array coordinates (column, row), never by order.

    Parameters
    ----------
    counts
        Table of spots × genes (TSV or CSV, plain or gzipped), with ids such as ``10x14``, ``16.92x9.015`` or ``17_9``
        in the first column: array column, then row. None for a section without expression: its spots are then
        those of ``spots``, else of ``labels``.
    image
        H&E image: JPEG, PNG or the like, or TIFF, which is read lazily.
    spots
        Where the spots are in the image. A selection table with array ``x``, ``y`` and image ``pixel_x``, ``pixel_y``;
        or a text file with the nine numbers of the 3 × 3 matrix from array to pixel coordinates, as ST pipelines write
        it. None if the image is cropped to the spot frame, so that its corners are the centres of the corner spots.
    labels
        One-hot table with layers in rows and spots in columns (all 0: unlabelled), or a table with ``x``, ``y`` and
        ``label``. If it has ``pixel_x`` and ``pixel_y``, it also serves as ``spots``.
    sample_id
        Name of the sample; by default that of the counts (or image) file up to the first dot.
    array
        Columns and rows of the array, for images cropped to the spot frame.
    pitch_um
        Distance of neighbouring spots' centres in µm.
    spot_diameter_um
        Diameter of a spot in µm.
    mpp
        Microns per pixel of the image, if known. By default it follows from ``pitch_um`` and the spots' pitch in pixels;
        if given, the two are checked against each other.
    duplicated_genes
        What to do with a gene name that several columns bear: ``"error"``, or ``"sum"`` of their counts.

    Returns
    -------
    SpatialData
        Image ``"image"``, circles ``"spots"`` and table ``"table"``: raw counts (CSR float32, genes in the file's order,
        width 0 without ``counts``), ``obs["array_col"]``, ``obs["array_row"]``, with ``labels`` also the categorical
        ``obs["label"]`` (NaN: unlabelled), and ``obsm["spatial"]`` (pixel x, y). Microns per pixel and the pitch
        are recorded in ``attrs``.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is damaged or not what it should be, spots occur twice, counts are not raw, spots have no position
        or all lie outside the image, labels fit no spot, or the scale contradicts the pitch.

    Notes
    -----
    Spots that have a position but no counts are left out, and their number is logged.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (320, 340), "pink").save(folder / "he.png")
    >>> _ = (folder / "counts.tsv").write_text("\tActb\tGapdh\n2x3\t1\t0\n3x3\t0\t4\n2x4\t5\t2\n")
    >>> sdata = read_st(folder / "counts.tsv", folder / "he.png")
    >>> sdata["table"].obsm["spatial"].tolist()
    [[10.0, 20.0], [20.0, 20.0], [10.0, 30.0]]
    >>> sdata.attrs["spade"]["mpp"]
    {'image': 20.0}
    """
    image = Path(image)
    sample = sample_id or Path(counts or image).name.split(".")[0]
    for name, value in (("pitch_um", pitch_um), ("spot_diameter_um", spot_diameter_um), ("mpp", mpp)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value!r} must be a positive number of µm{'/px' if name == 'mpp' else ''}.")
    if duplicated_genes not in ("error", "sum"):
        raise ValueError(f"duplicated_genes={duplicated_genes!r} must be 'error' or 'sum'.")
    if len(array) != 2 or min(array) < 2:
        raise ValueError(f"array={array!r} must be the numbers of columns and rows, at least 2 each.")

    found, labelled, table = read_labels(Path(labels)) if labels is not None else (None, [], None)
    where = None
    if spots is not None:
        where = read_positions(Path(spots), "spots")
    elif table is not None and {"pixel_x", "pixel_y"} <= set(table.columns):
        where = read_positions(Path(str(labels)), "labels", table)

    genes: list[str] = []
    if counts is not None:
        ids, genes, matrix = read_counts(Path(counts), duplicated_genes)
        xy = parse_ids(ids, f"counts={str(counts)!r}")
        keys: pd.Index = array_keys(xy, ids, f"counts={str(counts)!r}")
    else:
        ids, xy, keys = _without_counts(where, found, labelled, sample)
        matrix = csr_matrix((len(ids), 0), dtype=np.float32)

    picture = read_image(image, "image")
    width, height = size(picture)
    if isinstance(where, pd.DataFrame):
        xy, centres = _look_up(where, keys, ids, sample)
        linear = _fit(xy, centres)
    elif where is not None:
        linear = where[:2, :2]
        centres = xy @ linear.T + where[:2, 2]
    else:
        linear = np.diag([width / (array[0] - 1), height / (array[1] - 1)])
        centres = (xy - 1) @ linear
    check_inside(centres, width, height, sample)
    pitch_px = _pitch(linear, sample, mpp)
    if mpp is None:
        mpp = pitch_um / pitch_px
    else:
        check_pitch(pitch_px, mpp, pitch_um, sample)

    obs = pd.DataFrame({"array_col": keys.get_level_values(0), "array_row": keys.get_level_values(1)}, index=ids)
    if found is not None:
        obs["label"] = _labels(found, keys, sample)
    adata = AnnData(matrix, obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=object)))
    return section(picture, adata, centres, spot_diameter_um / 2 / mpp, sample=sample, mpp=mpp, pitch_um=pitch_um)


def _without_counts(
    where: pd.DataFrame | np.ndarray | None, found: pd.Series | None, labelled: list[str], sample: str
) -> tuple[list[str], np.ndarray, pd.Index]:
    """Spots of a section without expression: those selected, else those labelled."""
    if isinstance(where, pd.DataFrame):
        if "selected" in where and not where["selected"].all():
            logger.warning("%s: %d of %d spots are not selected and left out.", sample, *_share(~where["selected"]))
            where = where[where["selected"]]
        table: pd.DataFrame = where
        return [f"{x}x{y}" for x, y in table.index], table[["x", "y"]].to_numpy(dtype=float), table.index
    if found is None:
        raise ValueError(
            "counts=None: then the spots come from spots= (a selection table) or labels=, and neither is given. "
            f"Give one of the three for sample {sample!r}."
        )
    return labelled, parse_ids(labelled, "labels"), found.index


def _look_up(where: pd.DataFrame, keys: pd.Index, ids: list[str], sample: str) -> tuple[np.ndarray, np.ndarray]:
    """Array coordinates (refined where the selection has them) and pixel centres of the spots ``keys``."""
    missing = [spot for spot, known in zip(ids, keys.isin(where.index), strict=True) if not known]
    if missing:
        raise ValueError(
            f"{sample}: {len(missing)} of {len(ids)} spots with counts have no position in spots= ({some(missing)}; there "
            f"{some(f'{x}x{y}' for x, y in where.index[:3])}). Is it the selection of this section?"
        )
    extra = ~where.index.isin(keys)
    if extra.any():
        logger.warning("%s: %d of %d spots have a position but no counts and are left out.", sample, *_share(extra))
    here = where.loc[keys]
    refined = ["new_x", "new_y"] if {"new_x", "new_y"} <= set(here) else ["x", "y"]
    return here[refined].to_numpy(dtype=float), here[["pixel_x", "pixel_y"]].to_numpy(dtype=float)


def _fit(xy: np.ndarray, centres: np.ndarray) -> np.ndarray | None:
    """Linear part of the affine map from array to pixel coordinates, without outliers; None if spots are too few."""
    design = np.column_stack([xy, np.ones(len(xy))])
    keep = np.ones(len(xy), dtype=bool)
    for _ in range(5):
        if np.linalg.matrix_rank(design[keep]) < 3:
            return None
        solution, *_ = np.linalg.lstsq(design[keep], centres[keep], rcond=None)
        residual = np.linalg.norm(centres - design @ solution, axis=1)
        before, keep = keep, residual <= max(5 * float(np.median(residual)), 1e-6)
        if np.array_equal(before, keep):
            break
    return solution[:2].T


def _pitch(linear: np.ndarray | None, sample: str, mpp: float | None) -> float:
    """Pitch of the square grid in pixels, NaN if unknown but the scale is given."""
    if linear is None:
        if mpp is not None:
            return float("nan")
        raise ValueError(f"{sample}: too few spots to measure their pitch, and so µm per pixel. Give mpp=.")
    long, short = np.linalg.svd(linear, compute_uv=False)
    if not short > 0 or long / short - 1 > TOLERANCE:
        raise ValueError(
            f"{sample}: the spots' grid measures {long:.1f} pixels one way and {short:.1f} the other, but it is square. "
            "Without spots=, the image must be cropped to the frame of the array= (columns, rows); else give spots=."
        )
    return float(np.sqrt(long * short))


def _labels(found: pd.Series, keys: pd.Index, sample: str) -> pd.Categorical:
    """Labels of the spots ``keys`` as a categorical, with a warning about labels of other spots."""
    lost = ~found.index.isin(keys)
    if lost.all():
        raise ValueError(
            f"{sample}: none of the {len(found)} spots in labels= ({some(f'{x}x{y}' for x, y in found.index[:3])}) is "
            f"among the {len(keys)} spots of the section ({some(f'{x}x{y}' for x, y in keys[:3])}). Labels of another "
            "sample?"
        )
    if lost.any():
        warn(
            f"{sample}: {lost.sum()} of {len(found)} spots in labels= are not in the section; their labels are not used."
        )
    return pd.Categorical(found.reindex(keys).to_numpy())


def _share(mask: np.ndarray | pd.Series) -> tuple[int, int]:
    return int(np.sum(mask)), len(mask)
