"""Preprocessing: patches, tissue and tiles, binned counts, image features, labels, gene names and panels, splits."""

from spade.pp._bins.bin_expression import bin_expression
from spade.pp._encode_patches import encode_patches
from spade.pp._genes.harmonize_genes import harmonize_genes
from spade.pp._genes.select_genes import select_genes
from spade.pp._labels.label_patches import label_patches
from spade.pp._patches import patches
from spade.pp._slides.tiles import tiles
from spade.pp._slides.tissue import tissue
from spade.pp._smooth_expression import smooth_expression
from spade.pp._spatial_context import spatial_context
from spade.pp._split import split

__all__ = [
    "bin_expression",
    "encode_patches",
    "harmonize_genes",
    "label_patches",
    "patches",
    "select_genes",
    "smooth_expression",
    "spatial_context",
    "split",
    "tiles",
    "tissue",
]
