"""Tools: experts, training, embeddings, few-shot and slide tasks, survival, retrieval, expression."""

from spade.tl._embedding.embed import embed
from spade.tl._embedding.mixing import mixing
from spade.tl._embedding.retrieval_metrics import retrieval_metrics
from spade.tl._embedding.retrieve import retrieve
from spade.tl._embedding.umap import umap
from spade.tl._experts.expert_agreement import expert_agreement
from spade.tl._experts.expert_composition import expert_composition
from spade.tl._experts.rank_expert_genes import rank_expert_genes
from spade.tl._experts.routing_scores import routing_scores
from spade.tl._expression.expression_benchmark import expression_benchmark
from spade.tl._expression.expression_summary import expression_summary
from spade.tl._expression.expression_trust import expression_trust
from spade.tl._expression.pathway_scores import pathway_scores
from spade.tl._expression.predict_expression import predict_expression
from spade.tl._few_shot.annotate import annotate
from spade.tl._few_shot.few_shot import few_shot
from spade.tl._few_shot.few_shot_summary import few_shot_summary
from spade.tl._programs.train_programs import train_programs
from spade.tl._slides.attention import attention
from spade.tl._slides.risks.survival import survival
from spade.tl._slides.risks.survival_summary import survival_summary
from spade.tl._slides.score_image import score_image
from spade.tl._slides.slide_embedding import slide_embedding
from spade.tl._slides.slide_task import slide_task
from spade.tl._switchboard.switchboard import switchboard
from spade.tl._switchboard.switchboard_summary import switchboard_summary
from spade.tl._training.cluster_experts import cluster_experts
from spade.tl._training.train_seal import train_seal
from spade.tl._training.train_spade import train_spade

__all__ = [
    "annotate",
    "attention",
    "cluster_experts",
    "embed",
    "expert_agreement",
    "expert_composition",
    "expression_benchmark",
    "expression_summary",
    "expression_trust",
    "few_shot",
    "few_shot_summary",
    "mixing",
    "pathway_scores",
    "predict_expression",
    "rank_expert_genes",
    "retrieval_metrics",
    "retrieve",
    "routing_scores",
    "score_image",
    "slide_embedding",
    "slide_task",
    "survival",
    "survival_summary",
    "switchboard",
    "switchboard_summary",
    "train_programs",
    "train_seal",
    "train_spade",
    "umap",
]
