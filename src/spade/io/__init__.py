"""Readers of files and of objects of other packages, and writing that survives an interruption."""

from __future__ import annotations

from spade.io._annotations import read_annotations
from spade.io._cohort.cohort import cohort
from spade.io._cohort.hest_cohort import hest_cohort
from spade.io._cohort.metadata import read_hest_metadata
from spade.io._cohort.spade_samples import spade_samples
from spade.io._export.write_annotations import write_annotations
from spade.io._hest import read_hest
from spade.io._images.ome_tiff import write_ome_tiff
from spade.io._neighbours.from_anndata import from_anndata
from spade.io._neighbours.from_lazyslide import from_lazyslide
from spade.io._neighbours.from_sopa import from_sopa
from spade.io._neighbours.from_trident import from_trident
from spade.io._st import read_st
from spade.io._store import write
from spade.io._wsi import read_wsi

__all__ = [
    "cohort",
    "from_anndata",
    "from_lazyslide",
    "from_sopa",
    "from_trident",
    "hest_cohort",
    "read_annotations",
    "read_hest",
    "read_hest_metadata",
    "read_st",
    "read_wsi",
    "spade_samples",
    "write",
    "write_annotations",
    "write_ome_tiff",
]
