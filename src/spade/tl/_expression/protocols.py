"""Two protocols for predicting expression from a representation: that of HEST-Bench, and a sound one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from spade.core.arrays import Floats, Rows
from spade.core.evaluation.folds import section_folds
from spade.core.evaluation.scaling import column_scale
from spade.core.expression.correlation import pearson_per_gene
from spade.core.expression.normalise import log_normalise
from spade.core.expression.ridge import ALPHAS, Ridge, best_penalty, fit_ridge, ridge_errors

HEST, SOUND = "hest", "sound"
#: Settings of HEST-Bench: components, seed, iterations, and the share of a sample's spots that a gene must occur in.
COMPONENTS, SEED, ITERATIONS, MIN_SHARE_OF_SPOTS = 256, 1, 1_000, 0.1


class GeneScore(TypedDict):
    """Correlation of one gene over the spots of one section (``""``: of all test sections together)."""

    section: str
    gene: str
    pearson: float
    n_spots: int
    alpha: float


@dataclass(frozen=True)
class BenchSection:
    """One section of a benchmark.

    Attributes
    ----------
    name
        Name of the section.
    x
        Representations ``(n, d)`` by name.
    counts
        Raw counts ``(n, G)``.
    genes
        Names of their columns.
    points
        Centres ``(n, 2)``; None if unknown.
    patch
        Side of a patch in the unit of ``points``; 0 if unknown.
    """

    name: str
    x: dict[str, NDArray[np.float32]]
    counts: csr_matrix
    genes: pd.Index
    points: Floats | None
    patch: float

    def take(self, genes: Sequence[str], target_sum: float | None) -> csr_matrix:
        """Return log1p of the counts of some genes, scaled per spot unless ``target_sum`` is None."""
        if target_sum is None:
            values = self.counts.astype(np.float64).log1p()
        else:
            values = log_normalise(csr_matrix(self.counts, dtype=np.float32), target_sum)
        return csr_matrix(values)[:, self.genes.get_indexer(list(genes))]


def candidates(sections: Sequence[BenchSection]) -> list[str]:
    """Genes found in at least a tenth of the spots of every section, without controls, in alphabetical order."""
    common: set[str] | None = None
    for section in sections:
        n_spots = np.asarray((section.counts > 0).sum(0)).ravel()
        frequent = set(section.genes[n_spots >= np.ceil(MIN_SHARE_OF_SPOTS * section.counts.shape[0])])
        common = frequent if common is None else common & frequent
    return sorted(name for name in common or () if "BLANK" not in name and "Control" not in name)


def variable_genes(sections: Sequence[BenchSection], n_genes: int, allowed: set[str] | None = None) -> list[str]:
    """Most variable candidates, by log1p of the raw counts of all sections together (scanpy's default flavour)."""
    import anndata as ad
    import scanpy as sc

    names = [name for name in candidates(sections) if allowed is None or name in allowed]
    if len(names) < n_genes:
        raise ValueError(
            f"n_genes={n_genes}: only {len(names)} genes occur in a tenth of the spots of every section. Lower "
            "n_genes=, or name the genes with genes=."
        )
    stacked = vstack([section.take(names, None) for section in sections], format="csr").astype(np.float32)
    table = ad.AnnData(stacked, var=pd.DataFrame(index=names))
    variable = sc.pp.highly_variable_genes(table, n_top_genes=n_genes, inplace=False)["highly_variable"].to_numpy()
    return [name for name, is_variable in zip(names, variable, strict=True) if is_variable][:n_genes]


def hest_fold(
    train: Sequence[BenchSection], test: Sequence[BenchSection], rep: str, genes: Sequence[str]
) -> Iterator[GeneScore]:
    """Pearson correlation per gene over all test spots together, as in HEST-Bench."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    x, query = (np.concatenate([section.x[rep] for section in part]) for part in (train, test))
    y, truth = (vstack([section.take(genes, None) for section in part]).toarray() for part in (train, test))
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


def fit_probe(x: NDArray[np.floating], y: csr_matrix, folds: list[tuple[Rows, Rows]]) -> RidgeProbe:
    """Fit features ``(n, d)`` to expression ``(n, G)``; the penalty is chosen on the held-out rows of ``folds``."""
    mean, deviation = column_scale(x)
    x = (x - mean) / deviation
    alpha = float(ALPHAS[best_penalty(ridge_errors(x, y, folds, ALPHAS))])
    return RidgeProbe(fit_ridge(x, y), mean, deviation, alpha)


def no_penalty(section: str) -> str:
    """Message for a fold with a single training section, of which nothing can be held out."""
    return (
        f"{section} is the only training section of a fold and has no patches of the name patches_key=, so no penalty "
        "can be chosen within it. Add sections, or run sp.pp.patches: halves of the section are then held out."
    )


def sound_fold(
    train: Sequence[BenchSection],
    test: Sequence[BenchSection],
    rep: str,
    genes: Sequence[str],
    target_sum: float | None,
) -> Iterator[GeneScore]:
    """Pearson correlation per gene within each test section; the training sections choose the ridge penalty."""
    x = np.concatenate([section.x[rep] for section in train])
    y = csr_matrix(vstack([section.take(genes, target_sum) for section in train]))
    names = np.concatenate([np.full(len(section.x[rep]), section.name) for section in train])
    points = train[0].points if len(train) == 1 else None
    folds = section_folds(names, points, train[0].patch)
    if not folds:
        raise ValueError(no_penalty(train[0].name))
    probe = fit_probe(x, y, folds)
    for section in test:
        truth = section.take(genes, target_sum).toarray()
        yield from _scores(section.name, genes, truth, probe.predict(section.x[rep]), probe.alpha)


def _scores(section: str, genes: Sequence[str], truth: Floats, predicted: Floats, alpha: float) -> Iterator[GeneScore]:
    for gene, value in zip(genes, pearson_per_gene(truth, predicted), strict=True):
        yield {"section": section, "gene": gene, "pearson": value, "n_spots": len(truth), "alpha": alpha}
