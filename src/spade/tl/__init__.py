"""Tools: experts, training, embeddings, retrieval."""

from spade.tl._cluster_experts import cluster_experts
from spade.tl._embed import embed
from spade.tl._retrieval import retrieval_metrics
from spade.tl._train_spade import train_spade

__all__ = ["cluster_experts", "embed", "retrieval_metrics", "train_spade"]
