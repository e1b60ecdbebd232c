"""Words for the identifiers in result tables."""

from __future__ import annotations

import pytest

from spade.pl._draw.words import words


@pytest.mark.parametrize(
    ("identifier", "prose"),
    [
        ("image_to_expression", "image → expression"),
        ("expression_to_image", "expression → image"),
        ("balanced_accuracy", "balanced accuracy"),
        ("macro_auroc", "macro AUROC"),
        ("pearson", "Pearson correlation"),
        ("recall@10", "recall@10"),
        ("contrastive_only", "contrastive only"),
        ("seal_no_image_to_gene", "seal without image-to-gene"),
        ("seal_shuffled", "seal, shuffled pairs"),
    ],
)
def test_identifiers_become_prose(identifier, prose):
    assert words(identifier) == prose
