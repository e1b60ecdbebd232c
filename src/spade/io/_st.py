"""Classic Spatial Transcriptomics (ST): one section from its count matrix, image and spot positions."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix

from spade._checks import plural, shorten
from spade.core.arrays import Floats
from spade.core.checks import brief, check_choice, check_count, check_path, check_positive, check_text
from spade.core.errors import warn
from spade.core.spots.lattice import TOLERANCE, check_pitch
from spade.io._images.multiscale import read_image, size
from spade.io._section import check_inside, section
from spade.io._st_files import Labels, array_keys, parse_ids, read_counts, read_labels, read_positions

if TYPE_CHECKING:
    from spatialdata import SpatialData

logger = logging.getLogger("spade")


@dataclass(frozen=True)
class Spots:
    """Spots of a section in the order of the table, with one row of counts each."""

    ids: list[str]
    #: Array coordinates (column, row), ``(n, 2)``.
    xy: Floats
    #: Rounded array coordinates, by which files are joined.
    keys: pd.Index
    genes: list[str]
    counts: csr_matrix


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
        Table of spots × genes (tabs, commas or semicolons, plain or gzipped; lines that begin with ``#`` are comments,
        in all tables), with ids such as ``10x14``, ``16.92x9.015`` or ``17_9`` in the first column: array column, then
        row. None: a section without expression, whose spots are those of
        ``spots``, else those of ``labels``.
    image
        H&E image: JPEG, PNG or the like, or TIFF, which is read lazily. Colours of 8 bits; transparency is laid on
        white. CMYK, grey of 16 bits and TIFF of other channels are refused.
    spots
        Positions of the spots in the image: a selection table with array ``x``, ``y`` and image ``pixel_x``,
        ``pixel_y``; or a text file with the nine numbers of the 3 × 3 matrix from array to pixel coordinates, as ST
        pipelines write it. None: the image is cropped to the spot frame, so its corners are the centres of the corner
        spots.
    labels
        One-hot table with layers in rows and spots in columns (all 0: unlabelled), or a table with ``x``, ``y`` and
        ``label``. If it has ``pixel_x`` and ``pixel_y``, it also serves as ``spots``.
    sample_id
        Name of the sample. None: the name of the counts (or image) file up to the first dot.
    array
        Columns and rows of the array, for images cropped to the spot frame.
    pitch_um
        Distance between the centres of neighbouring spots in µm.
    spot_diameter_um
        Diameter of a spot in µm.
    mpp
        Microns per pixel of the image. None: computed from ``pitch_um`` and the pitch of the spots in pixels. If given,
        it is checked against the two.
    duplicated_genes
        What to do if several columns have the same gene name: ``"error"``, or ``"sum"`` their counts.

    Returns
    -------
    SpatialData
        Image ``"image"``, circles ``"spots"`` and table ``"table"``: raw counts (CSR float32, genes in the order of the
        file, width 0 without ``counts``), ``obs["array_col"]``, ``obs["array_row"]``, with ``labels`` the categorical
        ``obs["label"]`` (NaN: unlabelled), and ``obsm["spatial"]`` (pixel x, y). Microns per pixel and the pitch are
        recorded in ``attrs``.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is damaged or of another kind, spots occur twice, counts are not raw, spots have no position or all
        lie outside the image, labels fit no spot, or the scale contradicts the pitch.

    Notes
    -----
    Spots with a position but without counts are left out, and their number is logged.

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
    _check_options(array, duplicated_genes, pitch_um=pitch_um, spot_diameter_um=spot_diameter_um, mpp=mpp)
    image = check_path("image", image)
    counts = None if counts is None else check_path("counts", counts)
    labels = None if labels is None else check_path("labels", labels)
    sample = (counts or image).name.split(".")[0] if sample_id is None else check_text("sample_id", sample_id)
    labelled = None if labels is None else read_labels(labels)
    positions: pd.DataFrame | Floats | None = None
    if spots is not None:
        positions = read_positions(check_path("spots", spots), "spots")
    elif labelled is not None and {"pixel_x", "pixel_y"} <= set(labelled.table.columns):
        positions = read_positions(Path(str(labels)), "labels", labelled.table)
    if counts is None:
        spots_read = _without_counts(positions, labelled, sample)
    else:
        spots_read = _with_counts(counts, duplicated_genes)
    picture = read_image(image, "image")
    linear, centres = _place(spots_read, positions, size(picture), array, sample)
    check_inside(centres, *size(picture), sample)
    pitch_px = _pitch(linear, sample, mpp)
    if mpp is None:
        mpp = pitch_um / pitch_px
    else:
        check_pitch(pitch_px, mpp, pitch_um, sample)
    columns, rows = (spots_read.keys.get_level_values(level) for level in (0, 1))
    obs = pd.DataFrame({"array_col": columns, "array_row": rows}, index=spots_read.ids)
    if labelled is not None:
        obs["label"] = _labels(labelled.of_spot, spots_read.keys, sample)
    adata = AnnData(spots_read.counts, obs=obs, var=pd.DataFrame(index=pd.Index(spots_read.genes, dtype=object)))
    return section(picture, adata, centres, spot_diameter_um / 2 / mpp, sample=sample, mpp=mpp, pitch_um=pitch_um)


def _check_options(array: object, duplicated_genes: object, **microns: float | None) -> None:
    """Raise if an argument is not of the right kind."""
    for name, value in microns.items():
        if value is not None:
            check_positive(name, value, "µm/px" if name == "mpp" else "µm")
    check_choice("duplicated_genes", duplicated_genes, ("error", "sum"))
    if not isinstance(array, (tuple, list)) or len(array) != 2:
        raise ValueError(f"array={brief(array)}: expected the numbers of columns and rows, such as (33, 35).")
    for number in array:
        check_count("array", number, 2)


def _with_counts(path: Path, duplicated_genes: str) -> Spots:
    """Read the spots of a section with expression."""
    ids, genes, counts = read_counts(path, duplicated_genes)
    source = f"counts={str(path)!r}"
    xy = parse_ids(ids, source)
    return Spots(ids, xy, array_keys(xy, ids, source), genes, counts)


def _without_counts(positions: pd.DataFrame | Floats | None, labelled: Labels | None, sample: str) -> Spots:
    """Return the spots of a section without expression: those that are selected, else those that have labels."""
    if isinstance(positions, pd.DataFrame):
        table = positions
        if "selected" in table and not table["selected"].all():
            logger.warning("%s: %d of %d spots are not selected and left out.", sample, *_share(~table["selected"]))
            table = table[table["selected"]]
        ids, xy, keys = [f"{x}x{y}" for x, y in table.index], table[["x", "y"]].to_numpy(dtype=float), table.index
    elif labelled is not None:
        ids, xy, keys = labelled.ids, parse_ids(labelled.ids, "labels"), labelled.of_spot.index
    else:
        raise ValueError(
            "counts=None: then the spots come from spots= (a selection table) or labels=, and neither is given. "
            f"Give one of the three for sample {sample!r}."
        )
    return Spots(ids, xy, keys, [], csr_matrix((len(ids), 0), dtype=np.float32))


def _place(
    spots: Spots,
    positions: pd.DataFrame | Floats | None,
    image_size: tuple[int, int],
    array: tuple[int, int],
    sample: str,
) -> tuple[Floats | None, Floats]:
    """Return the linear part of the map from array to pixel coordinates (None: unknown), and pixel centres of spots."""
    if isinstance(positions, pd.DataFrame):
        xy, centres = _look_up(positions, spots, sample)
        return _fit(xy, centres), centres
    if positions is not None:
        linear = positions[:2, :2]
        return linear, spots.xy @ linear.T + positions[:2, 2]
    width, height = image_size
    linear = np.diag([width / (array[0] - 1), height / (array[1] - 1)])
    return linear, (spots.xy - 1) @ linear


def _look_up(positions: pd.DataFrame, spots: Spots, sample: str) -> tuple[Floats, Floats]:
    """Return array coordinates (refined if the selection has them) and pixel centres of spots."""
    known = spots.keys.isin(positions.index)
    missing = [spot for spot, has_position in zip(spots.ids, known, strict=True) if not has_position]
    if missing:
        raise ValueError(
            f"{sample}: {len(missing)} of {plural(len(spots.ids), 'spot')} with counts have no position in spots= "
            f"({shorten(missing)}; spots= has {shorten([f'{x}x{y}' for x, y in positions.index], 3)}). Is it the "
            "selection of this section?"
        )
    extra = ~positions.index.isin(spots.keys)
    if extra.any():
        logger.warning("%s: %d of %d spots have a position but no counts and are left out.", sample, *_share(extra))
    rows = positions.loc[spots.keys]
    refined = ["new_x", "new_y"] if {"new_x", "new_y"} <= set(rows) else ["x", "y"]
    return rows[refined].to_numpy(dtype=float), rows[["pixel_x", "pixel_y"]].to_numpy(dtype=float)


def _fit(xy: Floats, centres: Floats) -> Floats | None:
    """Return the linear part of the affine map from array to pixel coordinates, without outliers.

    None if there are too few spots.
    """
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
    return np.asarray(solution[:2].T)


def _pitch(linear: Floats | None, sample: str, mpp: float | None) -> float:
    """Return the pitch of the square grid in pixels, NaN if it is unknown but the scale is given."""
    if linear is None:
        if mpp is not None:
            return float("nan")
        raise ValueError(f"{sample}: too few spots to measure their pitch, and so µm per pixel. Give mpp=.")
    long, short = np.linalg.svd(linear, compute_uv=False)
    if not short > 0 or long / short - 1 > TOLERANCE:
        raise ValueError(
            f"{sample}: the grid of spots measures {long:.1f} pixels one way and {short:.1f} the other, but it should "
            "be square. Without spots=, the image must be cropped to the frame of the array= (columns, rows); else "
            "give spots=."
        )
    return float(np.sqrt(long * short))


def _labels(labels: pd.Series, keys: pd.Index, sample: str) -> pd.Categorical:
    """Return the labels of the spots ``keys`` as a categorical, and warn of labels of other spots."""
    lost = ~labels.index.isin(keys)
    if lost.all():
        raise ValueError(
            f"{sample}: none of the {plural(len(labels), 'spot')} in labels= "
            f"({shorten([f'{x}x{y}' for x, y in labels.index], 3)}) is among the {plural(len(keys), 'spot')} of the "
            f"section ({shorten([f'{x}x{y}' for x, y in keys], 3)}). Are they labels of another sample?"
        )
    if lost.any():
        warn(
            f"{sample}: {lost.sum()} of {plural(len(labels), 'spot')} in labels= are not in the section; their labels "
            "are not used."
        )
    return pd.Categorical(labels.reindex(keys).to_numpy())


def _share(mask: np.ndarray | pd.Series) -> tuple[int, int]:
    return int(np.sum(mask)), len(mask)
