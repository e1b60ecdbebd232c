"""Plots of patches, tiles, experts, training, embeddings and results; all return matplotlib Axes."""

from spade.pl._attention import attention
from spade.pl._choose_n_experts import choose_n_experts
from spade.pl._confusion import confusion
from spade.pl._embedding import embedding
from spade.pl._expert_clusters import expert_clusters
from spade.pl._expert_composition import expert_composition
from spade.pl._expert_gallery import expert_gallery
from spade.pl._expert_genes import expert_genes
from spade.pl._expression import expression
from spade.pl._expression_ranking import expression_ranking
from spade.pl._few_shot import few_shot
from spade.pl._patches import patches
from spade.pl._programs import programs
from spade.pl._retrieval import retrieval
from spade.pl._retrieval_curve import retrieval_curve
from spade.pl._roc import roc
from spade.pl._routing import routing
from spade.pl._slide import slide
from spade.pl._spatial import spatial
from spade.pl._split import split
from spade.pl._survival import survival
from spade.pl._switchboard import switchboard
from spade.pl._tiles import tiles
from spade.pl._training import training

__all__ = [
    "attention",
    "choose_n_experts",
    "confusion",
    "embedding",
    "expert_clusters",
    "expert_composition",
    "expert_gallery",
    "expert_genes",
    "expression",
    "expression_ranking",
    "few_shot",
    "patches",
    "programs",
    "retrieval",
    "retrieval_curve",
    "roc",
    "routing",
    "slide",
    "spatial",
    "split",
    "survival",
    "switchboard",
    "tiles",
    "training",
]
