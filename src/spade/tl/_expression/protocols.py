"""Two ways to measure how well a representation predicts expression: that of HEST-Bench, and a sound one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from spade._samples.features import column_scale
from spade.core.arrays import Floats
from spade.core.evaluation.folds import section_folds
from spade.core.expression.correlation import pearson_per_gene
from spade.core.expression.normalise import log_normalise
from spade.core.expression.ridge import ALPHAS, Ridge, best_penalty, fit_ridge, ridge_errors

HEST, SOUND = "hest", "sound"
#: Settings of HEST-Bench: components, seed, iterations, and the share of spots in which a gene is found in every sample.
COMPONENTS, SEED, ITERATIONS, MIN_SHARE_OF_SPOTS = 256, 1, 1_000, 0.1


@dataclass(frozen=True)
class BenchSection:
    """One section: representations ``(n, d)``, raw counts ``(n, G)``, gene names, places or None, and the guard band between them."""

    name: str
    x: dict[str, NDArray[np.float32]]
    counts: csr_matrix
    genes: pd.Index
    points: Floats | None
    guard: float

    def take(self, genes: Sequence[str], target_sum: float | None) -> csr_matrix:
        """Return log1p of the counts of some genes, scaled per spot unless ``target_sum`` is None."""
        values = self.counts.astype(np.float64).log1p() if target_sum is None else None
        if target_sum is not None:
            values = log_normalise(csr_matrix(self.counts, dtype=np.float32), target_sum)
        return csr_matrix(values)[:, self.genes.get_indexer(list(genes))]


def candidates(sections: Sequence[BenchSection]) -> list[str]:
    """Genes found in at least a tenth of the spots of every section, without controls, in alphabetical order."""
    kept: set[str] | None = None
    for one in sections:
        found = np.asarray((one.counts > 0).sum(0)).ravel() >= np.ceil(MIN_SHARE_OF_SPOTS * one.counts.shape[0])
        kept = set(one.genes[found]) & (set(one.genes[found]) if kept is None else kept)
    return sorted(name for name in kept or () if "BLANK" not in name and "Control" not in name)


def variable_genes(sections: Sequence[BenchSection], n_genes: int, allowed: set[str] | None = None) -> list[str]:
    """Most variable of the candidates, by log1p of the raw counts of all sections together (scanpy's default flavour)."""
    import anndata as ad
    import scanpy as sc

    names = [name for name in candidates(sections) if allowed is None or name in allowed]
    if len(names) < n_genes:
        raise ValueError(
            f"n_genes={n_genes}: only {len(names)} genes are in every section and found in a tenth of its spots. Lower n_genes=, or name "
            "them with genes=."
        )
    stacked = vstack([one.take(names, None) for one in sections], format="csr").astype(np.float32)
    table = ad.AnnData(stacked, var=pd.DataFrame(index=names))
    found = sc.pp.highly_variable_genes(table, n_top_genes=n_genes, inplace=False)["highly_variable"].to_numpy()
    return [name for name, chosen in zip(names, found, strict=True) if chosen][:n_genes]


def hest_fold(
    train: Sequence[BenchSection], test: Sequence[BenchSection], rep: str, genes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Pearson correlation per gene over all test spots together, as HEST-Bench has it."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    x, query = (np.concatenate([one.x[rep] for one in part]) for part in (train, test))
    y, truth = (vstack([one.take(genes, None) for one in part]).toarray() for part in (train, test))
    scaler = StandardScaler().fit(x)
    x, query = scaler.transform(x), scaler.transform(query)
    pca = PCA(n_components=min(COMPONENTS, *x.shape), random_state=SEED).fit(x)
    x, query = (pca.transform(part).astype(np.float32) for part in (x, query))
    alpha = 100 / (x.shape[1] * len(genes))
    ridge = Ridge(alpha=alpha, solver="lsqr", fit_intercept=False, max_iter=ITERATIONS, random_state=SEED)
    predicted = ridge.fit(x, y).predict(query).reshape(truth.shape)
    yield from _scores("", genes, truth, predicted, alpha)


@dataclass(frozen=True)
class RidgeProbe:
    """Ridge regression on standardised features, with the penalty that held-out training rows chose."""

    ridge: Ridge
    mean: Floats
    deviation: Floats
    alpha: float

    def predict(self, x: NDArray[np.floating]) -> Floats:
        """Predict expression ``(n, G)`` of features ``(n, d)``."""
        return self.ridge.predict((x - self.mean) / self.deviation, self.alpha)


def fit_probe(
    x: NDArray[np.floating], y: csr_matrix, folds: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> RidgeProbe:
    """Fit features ``(n, d)`` to expression ``(n, G)``; ``folds`` are rows to learn from and to choose the penalty on."""
    mean, deviation = column_scale(x)
    x = (x - mean) / deviation
    alpha = float(ALPHAS[best_penalty(ridge_errors(x, y, folds, ALPHAS))])
    return RidgeProbe(fit_ridge(x, y), mean, deviation, alpha)


def no_penalty(section: str) -> str:
    """Say why no penalty can be chosen where ``section`` is all there is to train on."""
    return (
        f"{section} is the only training section of a fold and has no patches, so no penalty can be chosen within it. Add sections, or "
        "run sp.pp.patches: its halves are then held out."
    )


def sound_fold(
    train: Sequence[BenchSection],
    test: Sequence[BenchSection],
    rep: str,
    genes: Sequence[str],
    target_sum: float | None,
) -> Iterator[dict[str, Any]]:
    """Pearson correlation per gene within each test section, of a ridge regression whose penalty the training sections chose."""
    x = np.concatenate([one.x[rep] for one in train])
    y = csr_matrix(vstack([one.take(genes, target_sum) for one in train]))
    section = np.concatenate([np.full(len(one.x[rep]), one.name) for one in train])
    places = train[0].points if len(train) == 1 else None
    folds = section_folds(section, places, train[0].guard)
    if not folds:
        raise ValueError(no_penalty(train[0].name))
    probe = fit_probe(x, y, folds)
    for one in test:
        predicted = probe.predict(one.x[rep])
        yield from _scores(one.name, genes, one.take(genes, target_sum).toarray(), predicted, probe.alpha)


def _scores(
    section: str, genes: Sequence[str], truth: Floats, predicted: Floats, alpha: float
) -> Iterator[dict[str, Any]]:
    for gene, value in zip(genes, pearson_per_gene(truth, predicted), strict=True):
        yield {"section": section, "gene": gene, "pearson": value, "n_spots": len(truth), "alpha": alpha}
