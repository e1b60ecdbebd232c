"""HEST-1k: one sample from a folder of the published dataset."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spade._checks import clean_label, plural, shorten
from spade._said.settings import HINT
from spade.core.arrays import Floats
from spade.core.checks import check_path, check_positive, check_text
from spade.core.errors import warn

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData
    from xarray import DataTree

from spade.core.spots.lattice import TOLERANCE, check_spots, lattice_reach, spot_pitch
from spade.io._bytes import read_json
from spade.io._cohort.patch_picture import patch_picture, spots_with_patch
from spade.io._files.damaged import damaged, reading
from spade.io._files.hdf5 import read_h5ad
from spade.io._files.matrices import to_csr
from spade.io._geojson import read_areas
from spade.io._images.multiscale import read_image, size
from spade.io._section import check_inside, section

logger = logging.getLogger("spade")
#: Technologies whose spots form a lattice. HEST-1k pools the spots of all others from finer data.
LATTICES = ("Visium", "Spatial Transcriptomics")
VISIUM_DIAMETER_UM = 55.0
#: Technology whose transcripts HEST-1k pools in squares of this side.
POOLED, POOLED_UM = "Xenium", 100.0
#: ``obs`` keys, with the entry of the metadata that each holds for all spots.
OBS = {
    "patient": "patient",
    "organ": "organ",
    "species": "species",
    "technology": "st_technology",
    "disease_state": "disease_state",
    "oncotree_code": "oncotree_code",
}
#: Folders of the files of a sample, and their suffixes.
KINDS = {"wsis": ".tif", "patches": ".h5", "st": ".h5ad", "metadata": ".json"}
#: Files of each optional shapes element; the first that exists is read.
SHAPES = {
    "tissue": ("tissue_seg/{id}_contours.geojson", "tissue_seg/{id}.geojson"),
    "cells": ("cellvit_seg/{id}_cellvit_seg.parquet", "cellvit_seg/{id}_cellvit_seg.geojson"),
}


def read_hest(path: str | Path, sample_id: str, *, mpp: float | None = None) -> SpatialData:
    """Read one sample of HEST-1k.

    The slide is read lazily, tile by tile. Where only HEST's patches were downloaded (``patches/{id}.h5``, 112 µm
    around every spot under tissue), these take its place: they are laid out as a picture of about 0.5 µm/px, white
    between them. Transcripts, Xenium segmentations and previews are not read.

    Parameters
    ----------
    path
        Folder with ``wsis/{id}.tif`` (or ``patches/{id}.h5``), ``st/{id}.h5ad`` and ``metadata/{id}.json``. If present,
        ``tissue_seg/{id}_contours.geojson`` and ``cellvit_seg/{id}_cellvit_seg.parquet`` (or ``.geojson``) are read
        too.
    sample_id
        Name of the sample, such as ``"TENX99"``.
    mpp
        Microns per pixel of the slide. None: the ``pixel_size_um_estimated`` of the metadata, else its
        ``pixel_size_um_embedded``, with a warning, as that is often wrong.

    Returns
    -------
    SpatialData
        Image ``"image"`` (the slide's own pyramid), circles ``"spots"`` and table ``"table"``: counts (CSR) as they
        are in the h5ad, ``obsm["spatial"]`` (pixel x, y), the metadata's ``patient``, ``organ``, ``species``,
        ``technology``, ``disease_state`` and ``oncotree_code`` as categoricals in ``obs`` if they are stated (a column
        of the h5ad with such a name is kept as it is; a sample without patient is one of its own, named as the
        sample), and all its plain entries in ``uns["hest"]``. Polygons
        ``"tissue"`` and ``"cells"`` if their files are present. Microns per pixel, and for Visium and ST the pitch of
        the spots, are recorded in ``attrs``. The small copies of the image in the h5ad (``uns["spatial"]``) are left
        out.

    Raises
    ------
    FileNotFoundError
        If the folder or one of the sample's files is missing.
    ValueError
        If ``sample_id`` holds a path, a file is damaged or claims more than it can hold, the image is not RGB, the
        scale is unknown or contradicts the spots, no spot lies in the image, or patches are not those of the spots.

    Warns
    -----
    UserWarning
        If spots lie outside the image, the scale is not an estimate or contradicts pooled spots of Xenium, gene names
        occur twice, or spots have no patch in ``patches/{id}.h5``: without the slide, these spots are left out.

    Examples
    --------
    A folder with one sample of four spots:

    >>> import json, pathlib, tempfile
    >>> import anndata, numpy, tifffile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("wsis", "st", "metadata"):
    ...     (folder / name).mkdir()
    >>> slide = numpy.full((600, 800, 3), 240, dtype="uint8")
    >>> tifffile.imwrite(folder / "wsis" / "TENX99.tif", slide, tile=(256, 256), photometric="rgb")
    >>> centres = numpy.array([[100.0, 100.0], [300.0, 100.0], [200.0, 273.0], [400.0, 273.0]])
    >>> spots = anndata.AnnData(numpy.ones((4, 3), dtype="float32"), obsm={"spatial": centres})
    >>> spots.write_h5ad(folder / "st" / "TENX99.h5ad")
    >>> facts = {"organ": "Breast", "st_technology": "Visium", "inter_spot_dist": 100, "pixel_size_um_estimated": 0.5}
    >>> _ = (folder / "metadata" / "TENX99.json").write_text(json.dumps(facts))

    >>> import spade as sp
    >>> sdata = sp.io.read_hest(folder, "TENX99")
    >>> sdata["table"].shape, sdata["table"].obs["organ"].iloc[0], sdata.attrs["spade"]["mpp"]
    ((4, 3), 'Breast', {'image': 0.5})
    """
    if check_text("sample_id", sample_id) in (".", "..") or set(sample_id) & set("/\\\0"):
        raise ValueError(f"sample_id={sample_id!r}: expected the name of a sample in the folder, without any path.")
    if mpp is not None:
        check_positive("mpp", mpp, "µm/px")
    return open_hest(check_path("path", path), sample_id, mpp=mpp, level=logging.INFO)


class SampleFiles(NamedTuple):
    """Files of a sample: its slide, or without one HEST's patches of it; expression and metadata."""

    slide: Path | None
    patches: Path | None
    expression: Path
    metadata: Path


def open_hest(
    folder: Path, sample_id: str, *, mpp: float | None = None, outlines: bool = True, level: int = HINT
) -> SpatialData:
    """Open a sample as :func:`read_hest` does, perhaps without ``outlines``; log a lacking patient at ``level``."""
    files = sample_files(folder, sample_id)
    facts = _read_metadata(files.metadata, sample_id)
    adata, centres, diameter_px = _read_expression(files.expression, sample_id)
    mpp = _slide_mpp(facts, files.metadata, sample_id) if mpp is None else mpp
    if files.slide is None:
        kept = spots_with_patch(_patches_of(files), adata.obs_names, sample_id)
        adata, centres = adata[kept].copy(), centres[kept]
    picture, image_mpp = _picture(files, sample_id, adata.obs_names, centres, mpp)
    shrink = image_mpp / mpp
    check_inside(centres / shrink, *size(picture), sample_id)
    pitch_um, diameter_um = _spots(facts, sample_id)
    if pitch_um is not None:
        check_spots(centres, mpp, pitch_um, sample_id)
    elif facts.get("st_technology") == POOLED:
        _check_pooled(centres, mpp, sample_id)
    if diameter_um is not None:
        diameter_px = diameter_um / mpp
    elif diameter_px is None:
        pitch_px = spot_pitch(centres)
        diameter_px = pitch_px if pitch_px > 0 else VISIUM_DIAMETER_UM / mpp

    for key, fact in OBS.items():
        stated = facts.get(fact) is not None and clean_label(str(facts[fact]))
        if key not in adata.obs and stated:
            adata.obs[key] = pd.Categorical([stated] * adata.n_obs)
    if "patient" not in adata.obs:
        adata.obs["patient"] = pd.Categorical([sample_id] * adata.n_obs)
        logger.log(level, '%s: the metadata names no patient; obs["patient"] is the name of the sample', sample_id)
    adata.uns["hest"] = {key: value for key, value in facts.items() if value is not None}
    return section(
        picture,
        adata,
        centres,
        diameter_px / 2,
        sample=sample_id,
        mpp=image_mpp,
        pitch_um=pitch_um,
        shapes=_outlines(folder, sample_id) if outlines else {},
    )


def open_picture(
    folder: Path, sample_id: str, barcodes: pd.Index, centres: Floats, mpp: float | None = None
) -> tuple[DataTree, float]:
    """Return the picture of a sample, and its µm/px: the slide, or without one HEST's patches of these spots."""
    files = sample_files(folder, sample_id)
    facts = _read_metadata(files.metadata, sample_id)
    mpp = _slide_mpp(facts, files.metadata, sample_id) if mpp is None else mpp
    return _picture(files, sample_id, barcodes, centres, mpp)


def _picture(
    files: SampleFiles, sample_id: str, barcodes: pd.Index, centres: Floats, mpp: float
) -> tuple[DataTree, float]:
    if files.slide is not None:
        return read_image(files.slide, f"slide of {sample_id}"), mpp
    return patch_picture(_patches_of(files), barcodes, centres, mpp, sample_id)


def _patches_of(files: SampleFiles) -> Path:
    if files.patches is None:
        raise FileNotFoundError(f"{str(files.expression)!r}: there is neither a slide nor a file of patches.")
    return files.patches


def _spots(facts: Mapping[str, Any], sample_id: str) -> tuple[float | None, float | None]:
    """Return distance and diameter of the spots in µm, None if unknown: spots of a lattice do not overlap."""
    if facts.get("st_technology") not in LATTICES:
        return None, None
    pitch_um, diameter_um = _positive(facts, "inter_spot_dist"), _positive(facts, "spot_diameter")
    if pitch_um is not None and diameter_um is not None and diameter_um > pitch_um:
        logger.info(
            "%s: the metadata have spots of %g µm, %g µm apart, which cannot be; neither is used",
            sample_id, diameter_um, pitch_um,
        )  # fmt: skip
        return None, None
    return pitch_um, diameter_um


def _outlines(folder: Path, sample_id: str) -> dict[str, GeoDataFrame]:
    """Return the outlines of tissue and cells that are in the folder."""
    shapes = {}
    for element, names in SHAPES.items():
        file = next((f for name in names if (f := folder / name.format(id=sample_id)).is_file()), None)
        polygons = _read_polygons(file, sample_id) if file else None
        if polygons is not None:
            shapes[element] = polygons
    return shapes


def sample_files(folder: Path, sample_id: str) -> SampleFiles:
    """Return the files of a sample, or raise with the samples that are complete."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"path={str(folder)!r} is not a folder; expected a folder with wsis/, st/ and metadata/."
        )
    slide, patches, expression, metadata = (folder / kind / f"{sample_id}{suffix}" for kind, suffix in KINDS.items())
    missing = [str(f.relative_to(folder)) for f in (expression, metadata) if not f.is_file()]
    if not (slide.is_file() or patches.is_file()):
        missing.insert(0, str(slide.relative_to(folder)))
    if missing:
        raise FileNotFoundError(
            f"sample_id={sample_id!r}: {', '.join(missing)} missing in {str(folder)!r}. Samples with slide (or "
            f"patches), expression and metadata there: {shorten(complete_samples(folder), 20) or 'none'}. Download the "
            "missing files, or choose one of these."
        )
    if slide.is_file():
        return SampleFiles(slide, None, expression, metadata)
    return SampleFiles(None, patches, expression, metadata)


def complete_samples(folder: Path) -> list[str]:
    """Return the samples of a folder that can be read."""
    slides, patches, expression, metadata = (
        {file.stem for file in (folder / kind).glob(f"*{suffix}")} for kind, suffix in KINDS.items()
    )
    return sorted((slides | patches) & expression & metadata)


def _slide_mpp(facts: Mapping[str, Any], metadata: Path, sample_id: str) -> float:
    """Return the µm/px that the metadata state for the slide; the estimate from the spots comes first."""
    estimated, embedded = (_positive(facts, f"pixel_size_um_{kind}") for kind in ("estimated", "embedded"))
    if estimated is None and embedded is not None:
        warn(
            f"{sample_id}: the metadata states no estimate of the µm/px (pixel_size_um_estimated is "
            f"{facts.get('pixel_size_um_estimated')!r}), so the {embedded:g} that the slide's file states is taken. In "
            "HEST-1k that is off by more than 5 % for every second sample: check it, and give mpp=."
        )
    mpp = estimated or embedded
    if mpp is None:
        raise ValueError(
            f"{sample_id}: the metadata has no positive microns per pixel (pixel_size_um_estimated is "
            f"{facts.get('pixel_size_um_estimated')!r}, pixel_size_um_embedded "
            f"{facts.get('pixel_size_um_embedded')!r} in {str(metadata)!r}). Give mpp=."
        )
    return mpp


def _check_pooled(centres: Floats, mpp: float, sample_id: str) -> None:
    """Warn if squares of pooled transcripts are not as far apart as they are wide."""
    pitch_um = spot_pitch(centres) * mpp
    if np.isfinite(lattice_reach(centres)) and abs(pitch_um / POOLED_UM - 1) > TOLERANCE:
        warn(
            f"{sample_id}: at {mpp:.4g} µm/px its pooled spots are {pitch_um:.1f} µm apart, but HEST-1k pools "
            f"{POOLED} in squares of {POOLED_UM:g} µm. {mpp * POOLED_UM / pitch_um:.4g} µm/px would fit: check it, and "
            "give mpp=."
        )


def _read_metadata(file: Path, sample_id: str) -> dict[str, Any]:
    """Return the entries that are plain values (text, numbers, truth values, None); NaN becomes None."""
    facts = read_json(file, sample_id)
    if not isinstance(facts, dict):
        raise ValueError(f"{str(file)!r} holds {type(facts).__name__}; expected a JSON object of metadata.")
    plain = {k: v for k, v in facts.items() if v is None or isinstance(v, str | int | float | bool)}
    return {k.replace("/", "_"): None if isinstance(v, float) and not np.isfinite(v) else v for k, v in plain.items()}


def _positive(facts: Mapping[str, Any], key: str) -> float | None:
    """Return the positive number that the metadata states under ``key``, None if it states none."""
    try:
        value = float(facts[key])
    except (KeyError, TypeError, ValueError):
        return None
    return value if np.isfinite(value) and value > 0 else None


def _read_expression(file: Path, sample_id: str) -> tuple[AnnData, Floats, float | None]:
    """Return table, pixel centres, and the diameter of spots in pixels if the file states it."""
    adata = read_h5ad(file, sample_id)
    if "spatial" not in adata.obsm:
        raise ValueError(
            f"{str(file)!r} has no obsm['spatial'] with the spots' pixels; keys of obsm: "
            f"{sorted(adata.obsm) or 'none'}."
        )
    with reading(file, "h5ad: obsm['spatial']", sample_id):
        centres = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    if centres.ndim != 2 or centres.shape[1] != 2 or not np.isfinite(centres).all():
        raise ValueError(f"{str(file)!r}: obsm['spatial'] of shape {centres.shape} is not two finite numbers per spot.")
    if not adata.obs_names.is_unique:
        twice = adata.obs_names[adata.obs_names.duplicated()].unique()
        raise ValueError(f"{str(file)!r}: spot ids occur more than once: {shorten(twice)}.")
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        warn(
            f"{str(file)!r}: gene names occur more than once: {shorten(twice)}. All but the first of each name get "
            "a suffix."
        )
        adata.var_names_make_unique()
    with reading(file, "h5ad: X", sample_id):
        empty = csr_matrix((adata.n_obs, adata.n_vars), dtype=np.float32)
        adata.X = empty if adata.X is None else to_csr(adata.X, f"{str(file)!r}: X", dtype=None)
    diameter = None
    libraries = adata.uns.pop("spatial", {})
    for library in libraries.values() if isinstance(libraries, dict) else ():
        scales = library.get("scalefactors", {}) if isinstance(library, dict) else {}
        diameter = diameter or (_positive(scales, "spot_diameter_fullres") if isinstance(scales, dict) else None)
    return adata, centres, diameter


def _read_polygons(file: Path, sample_id: str) -> GeoDataFrame | None:
    """Return the polygons of a GeoParquet or GeoJSON file in pixels, None if it holds none.

    GeoJSON is a feature collection or a plain list of features; one feature may hold all cells of a class.
    """
    import geopandas as gpd
    from spatialdata.models import ShapesModel

    with reading(file, "polygons", sample_id):
        if file.suffix == ".parquet":
            frame = gpd.read_parquet(file)
        else:
            properties, shapes = read_areas(file, sample_id)
            frame = gpd.GeoDataFrame(pd.DataFrame([_plain(entry) for entry in properties]), geometry=shapes)
        if frame.geometry.name != "geometry":
            frame = frame.rename_geometry("geometry")
        frame = frame.set_crs(None, allow_override=True)  # pixels, although GeoJSON means degrees
        frame = frame.explode(ignore_index=True)
        empty = frame.geometry.isna() | frame.is_empty
        frame = frame[empty | (frame.geom_type == "Polygon")].reset_index(drop=True)
        wrong = (frame.area == 0) | ~np.isfinite(frame.area) | frame.geometry.isna()
        if wrong.any():
            raise damaged(
                file, "polygons", f"{plural(int(wrong.sum()), 'polygon')} enclose no area, the first {wrong.idxmax()}"
            )
        return ShapesModel.parse(frame) if len(frame) else None


def _plain(properties: dict[str, Any]) -> dict[str, str | int | float | bool]:
    """Return the plain properties of a GeoJSON feature, with its class as ``class``."""
    plain = {k: v for k, v in properties.items() if isinstance(v, str | int | float | bool)}
    kind = properties.get("classification")
    return {**plain, "class": str(kind["name"])} if isinstance(kind, dict) and "name" in kind else plain
