"""Words for the identifiers in result tables."""

from __future__ import annotations

#: Identifiers that do not become prose by replacing underscores with spaces.
WORDS = {
    "c_index": "c-index",
    "held_out_sections": "held-out sections",
    "image_to_expression": "image → expression",
    "expression_to_image": "expression → image",
    "mae": "mean absolute error",
    "macro_auroc": "macro AUROC",
    "macro_f1": "macro F1",
    "pearson": "Pearson correlation",
    "r2": "R²",
    "seal_no_contrastive": "seal without contrastive",
    "seal_no_gene_reconstruction": "seal without gene reconstruction",
    "seal_no_image_to_gene": "seal without image-to-gene",
    "seal_shuffled": "seal, shuffled pairs",
}


def words(identifier: str) -> str:
    """Return an identifier as prose."""
    return WORDS.get(identifier, identifier.replace("_", " "))
