"""Tools: experts, training, embeddings, retrieval, and what the experts are about."""

from spade.tl._cluster_experts import cluster_experts
from spade.tl._embed import embed
from spade.tl._expert_agreement import expert_agreement
from spade.tl._expert_composition import expert_composition
from spade.tl._mixing import mixing
from spade.tl._rank_expert_genes import rank_expert_genes
from spade.tl._retrieval import retrieval_metrics
from spade.tl._routing_scores import routing_scores
from spade.tl._train_spade import train_spade

__all__ = [
    "cluster_experts",
    "embed",
    "expert_agreement",
    "expert_composition",
    "mixing",
    "rank_expert_genes",
    "retrieval_metrics",
    "routing_scores",
    "train_spade",
]
