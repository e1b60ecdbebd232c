"""Which genes can be predicted, measured on sections that were held out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from spade import _keys
from spade._checks import shorten
from spade._samples.model_features import Model
from spade._samples.open import Samples
from spade.core.expression.correlation import pearson_per_gene
from spade.core.rng import as_seed, numpy_stream
from spade.models import GenePanel
from spade.tl._expression.predictor import Predictor
from spade.tl._expression.reference import read_reference
from spade.tl._expression.settings import PredictionSettings
from spade.tl._expression.table import mean_bounds, mean_known


def expression_trust(
    reference: Samples,
    model: Model | None = None,
    *,
    genes: GenePanel | Sequence[str] | None = None,
    method: str = "neighbours",
    use_rep: str | tuple[str, ...] | None = None,
    k: int = 50,
    temperature: float = 0.1,
    mix: str = "concat",
    alpha: float | str = "cv",
    scaling: str = "reference",
    layer: str | None = None,
    normalized: bool | None = None,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    n_boot: int = 2_000,
    level: float = 0.95,
    rng: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Measure, gene by gene, how well expression is predicted on sections that were held out.

    Each section of ``reference`` in turn is predicted from all others, as :func:`predict_expression` would. Of a single section each
    half is predicted from the other, without the spots next to it; that flatters, as both halves are one patient and one stain.

    Parameters
    ----------
    reference
        Samples with image features and expression.
    model
        A trained model, for ``"neighbours"``. One that was trained on these sections has seen their pairs and is flattered:
        give sections that it did not see.
    genes, method, use_rep, k, temperature, mix, alpha, scaling, layer, normalized, patches_key, table_key
        As in :func:`predict_expression`; a penalty is chosen without the section held out.
    n_boot
        Bootstrap samples of the sections.
    level
        Of the intervals.
    rng
        Seed of the bootstrap.

    Returns
    -------
    DataFrame
        One row per ``gene``, best first: ``pearson``, the mean over held-out sections of the correlation over spots, its bootstrap
        interval ``low``, ``high`` over sections (NaN with fewer than two) and their number ``n_sections``, in which the gene varies; ``rmse``
        beside ``rmse_mean``, the error of the mean-expression control (the gene's mean in training), and ``skill``, 1 − rmse² / rmse_mean²: above
        0 the prediction is better than the mean. The correlation of that control is 0. A gene that varies nowhere has NaN.

    Raises
    ------
    KeyError
        Features, genes or table that are not there.
    ValueError
        A single section without patches, or what :func:`predict_expression` raises.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(3, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> genes = sp.pp.select_genes(samples, n_top_genes=20)
    >>> table = sp.tl.expression_trust(samples, method="ridge", use_rep="X_texture", genes=genes)
    >>> bool(table["pearson"].max() > 0.3), set(table["n_sections"])
    (True, {3})
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}: expected a number between 0 and 1.")
    settings = PredictionSettings.of(
        method=method, model=model, use_rep=use_rep, k=k, temperature=temperature, mix=mix, alpha=alpha, scaling=scaling,
        layer=layer, normalized=normalized, patches_key=patches_key,
    )  # fmt: skip
    known = read_reference(reference, settings, genes, table_key)
    folds = known.folds(np.arange(len(known.section)))
    if not folds:
        raise ValueError(
            f"reference: has one section ({shorten(np.unique(known.section))}) and no patches, so nothing can be held out. Add sections, or "
            "run sp.pp.patches: halves of the section are then held out."
        )
    pearson, squared, control, weight = [], 0.0, 0.0, 0
    for train, test in tqdm(folds, desc="holding out", unit="section"):
        mean, _ = Predictor(settings, known, train).predict(known.image[test])
        truth = known.y[test].toarray()
        pearson.append(pearson_per_gene(truth, mean))
        squared = squared + np.square(truth - mean).sum(0, dtype=np.float64)
        baseline = np.asarray(known.y[train].mean(0)).ravel()
        control = control + np.square(truth - baseline).sum(0, dtype=np.float64)
        weight += len(test)
    found = np.array(pearson)
    if len(np.unique(known.origin)) == 1:  # halves of one section are no units
        found = mean_known(found)[None]
    low, high = mean_bounds(found, n_boot, level, numpy_stream(as_seed(rng), "bootstrap of sections"))
    rmse, rmse_mean = np.sqrt(squared / weight), np.sqrt(control / weight)
    table = pd.DataFrame(
        {
            "gene": known.genes, "pearson": mean_known(found), "low": low, "high": high, "n_sections": (~np.isnan(found)).sum(0),
            "rmse": rmse, "rmse_mean": rmse_mean,
            "skill": np.where(rmse_mean > 0, 1 - (rmse / np.where(rmse_mean > 0, rmse_mean, 1)) ** 2, np.nan),
        }
    )  # fmt: skip
    return table.sort_values("pearson", ascending=False, kind="stable", ignore_index=True)
