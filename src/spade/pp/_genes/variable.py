"""The most variable of the common genes, in each sample or in all samples together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from spade.core.arrays import Floats
from spade.core.expression.normalise import log_normalise
from spade.models import GenePanel

#: A gene with fewer counts than this in all spots together is left out.
MIN_COUNTS = 3
#: A gene that is found in a smaller share of the spots, or in fewer spots, is hardly expressed: noise, if most are.
RARE_SHARE, RARE_SPOTS = 0.01, 3
#: A gene that is found in a smaller share of the spots is named, so that it can be left out.
FEW_SHARE = 0.05


def spots_with(counts: csr_matrix, var_names: pd.Index, common: GenePanel) -> Floats:
    """Return the number of spots in which each of the common genes has a count."""
    n_found = np.bincount(counts.indices[counts.data > 0], minlength=counts.shape[1]).astype(np.float64)
    columns = common.columns(var_names)
    return np.where(columns >= 0, n_found[columns], 0.0)


def rare_genes(n_found: Floats, n_spots: int, common: GenePanel, share: float) -> list[str]:
    """Return the genes that are found in less than a share of the spots, or in fewer than ``RARE_SPOTS``, by rarity."""
    order = np.argsort(n_found, kind="stable")
    return [common.names[i] for i in order if n_found[i] < max(share * n_spots, RARE_SPOTS)]


def variable_alone(counts: csr_matrix, var_names: pd.Index, common: GenePanel, n_top_genes: int) -> set[str]:
    """Return the most variable of the common genes in the spots of one sample, as the SPADE paper chooses them."""
    import scanpy as sc

    scratch = ad.AnnData(counts)
    sc.pp.normalize_total(scratch)
    sc.pp.log1p(scratch)
    columns = np.sort(common.columns(var_names))
    if len(columns) < scratch.n_vars:
        scratch = scratch[:, columns].copy()
    scratch.var_names = np.array(common.fold(var_names), dtype=object)[columns]
    if n_top_genes >= scratch.n_vars:
        return set(scratch.var_names)
    sc.pp.highly_variable_genes(scratch, n_top_genes=n_top_genes)
    return set(scratch.var_names[scratch.var["highly_variable"]])


@dataclass(frozen=True)
class SectionCounts:
    """Common genes of one sample: log-normalised values ``(n, G)``, total counts ``(G,)``, and each spot's section."""

    values: csr_matrix
    total: Floats
    section: NDArray[np.str_]

    @classmethod
    def of(cls, counts: csr_matrix, var_names: pd.Index, section: NDArray[np.str_], common: GenePanel) -> SectionCounts:
        """Take the common genes of a sample; spots are scaled by their counts over all genes."""
        total = np.asarray(common.take(counts, var_names)[0].sum(0, dtype=np.float64)).ravel()
        return cls(common.take(log_normalise(counts), var_names)[0], total, section)


def variable_together(
    parts: Sequence[SectionCounts], common: GenePanel, n_top_genes: int, *, by_section: bool
) -> set[str]:
    """Return the most variable of the common genes in the spots of all samples, as the SEAL paper chooses them.

    With ``by_section``, genes that vary within most sections are chosen (scanpy's ``batch_key``).
    """
    import scanpy as sc

    section = np.concatenate([part.section for part in parts])
    enough = sum(part.total for part in parts) >= MIN_COUNTS
    names = np.array(common.names, dtype=object)[enough]
    if n_top_genes >= len(names):
        return set(names)
    obs = pd.DataFrame({"section": pd.Categorical(section)}, index=np.arange(len(section)).astype(str))
    single = obs["section"].value_counts().loc[lambda count: count < 2].index
    if by_section and len(single):
        raise ValueError(f"by_section=True: {single[0]} has a single spot with counts, so no gene varies within it.")
    values = csr_matrix(vstack([part.values for part in parts], format="csr")[:, enough])
    scratch = ad.AnnData(values, obs=obs, var=pd.DataFrame(index=names))
    batch_key = "section" if by_section else None
    sc.pp.highly_variable_genes(scratch, flavor="seurat", n_top_genes=n_top_genes, batch_key=batch_key)
    return set(scratch.var_names[scratch.var["highly_variable"]])
