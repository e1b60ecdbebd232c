"""A representation in two dimensions: what ``pl.embedding`` draws."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

#: Metrics that :func:`scanpy.pp.neighbors` knows by name and that suit features.
METRICS = (
    "euclidean", "cosine", "correlation", "cityblock", "manhattan", "l1", "l2", "chebyshev", "canberra", "braycurtis",
    "minkowski", "sqeuclidean", "jaccard", "hamming", "dice", "rogerstanimoto", "russellrao", "yule",
)  # fmt: skip


def umap(x: NDArray[np.float32], *, n_neighbors: int, min_dist: float, metric: str, seed: int) -> NDArray[np.float32]:
    """Return UMAP coordinates ``(n, 2)`` of the rows of ``x`` ``(n, d)``, from their nearest neighbours."""
    import scanpy as sc

    scratch = ad.AnnData(obs=pd.DataFrame(index=np.arange(len(x)).astype(str)), obsm={"x": x})
    state = seed % 2**32
    sc.pp.neighbors(scratch, n_neighbors=min(n_neighbors, len(x) - 1), use_rep="x", metric=metric, random_state=state)
    sc.tl.umap(scratch, min_dist=min_dist, random_state=state)
    return np.asarray(scratch.obsm["X_umap"])
