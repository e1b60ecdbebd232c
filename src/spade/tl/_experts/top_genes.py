"""Genes that stand out in each expert: the test, and the few genes that ``pl.expert_gallery`` draws.

The gallery does not call ``rank_expert_genes``, which raises for a single expert, few spots or few common genes, where
a gallery still shows patches, and has no difference in mean log expression.
"""

from __future__ import annotations

import warnings
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

#: Spots that a group and its rest need for a t-test.
MIN_SPOTS = 2


def compare_experts(joined: ad.AnnData, experts: list[str], method: str) -> Any:
    """Test each of these experts against all other spots by ``obs["expert"]``; return scanpy's arrays by statistic."""
    import scanpy as sc

    joined.obs["expert"] = joined.obs["expert"].astype("category")
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.PerformanceWarning)
        sc.tl.rank_genes_groups(
            joined, "expert", groups=experts, reference="rest", method=method, n_genes=joined.n_vars
        )
    return joined.uns["rank_genes_groups"]


def top_genes(
    tables: list[ad.AnnData], labels: list[NDArray[np.object_]], experts: list[str], n_genes: int
) -> dict[str, pd.Series | str]:
    """Rank the genes that all tables have in common by a t-test of each expert against the rest.

    Parameters
    ----------
    tables
        Log-normalised expression, one per sample.
    labels
        Expert of each row, ``""`` if it has none.
    experts
        Experts to rank genes for.
    n_genes
        Genes per expert.

    Returns
    -------
    For each expert the genes with the highest t and their difference in mean log expression (expert − rest), largest
    difference first; or the reason why there are none.
    """
    if not tables:
        return dict.fromkeys(experts, "no expression")
    for table, expert_of_row in zip(tables, labels, strict=True):
        table.obs["expert"] = expert_of_row
    joined = ad.concat(tables, join="inner", index_unique="-", keys=[str(i) for i in range(len(tables))])
    joined = joined[joined.obs["expert"] != ""].copy()
    if not joined.n_vars:
        return dict.fromkeys(experts, "no gene common\nto all samples")
    sizes = joined.obs["expert"].value_counts()
    ranked = [expert for expert in experts if MIN_SPOTS <= sizes.get(expert, 0) <= joined.n_obs - MIN_SPOTS]
    result: dict[str, pd.Series | str] = dict.fromkeys(experts, "too few spots\nto compare")
    if not ranked:
        return result
    ranking = compare_experts(joined, ranked, "t-test")
    for expert in ranked:
        scores = pd.Series(ranking["scores"][expert], index=ranking["names"][expert])
        best = scores[np.isfinite(scores) & (scores > 0)].index[:n_genes]
        in_expert = (joined.obs["expert"] == expert).to_numpy()
        values = joined[:, best].X
        difference = np.asarray(values[in_expert].mean(0) - values[~in_expert].mean(0)).ravel()
        result[expert] = pd.Series(difference, index=best).sort_values(ascending=False, kind="stable")
    return result
