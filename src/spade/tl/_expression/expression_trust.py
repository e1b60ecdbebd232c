"""Which genes can be predicted, measured on sections that were held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from spade import _keys
from spade._checks import shorten
from spade._said.lines import speaks
from spade._samples.model_features import Model
from spade._samples.open import Samples
from spade.core.arrays import Floats, Rows
from spade.core.checks import check_count, check_share
from spade.core.expression.correlation import pearson_per_gene
from spade.core.rng import as_seed, numpy_stream
from spade.models import GenePanel
from spade.tl._expression.predictor import fit_predictor
from spade.tl._expression.reference import Reference, read_reference
from spade.tl._expression.settings import PredictionSettings
from spade.tl._expression.table import mean_bounds, mean_known


@speaks
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
    """Measure gene by gene how well expression is predicted on held-out sections.

    Each section of ``reference`` in turn is predicted from all others, as by :func:`predict_expression`. Of a single
    section, each half is predicted from the other, without the spots near the cut; this is optimistic, because both
    halves come from one patient and one stain.

    Parameters
    ----------
    reference
        Samples with image features and expression.
    model
        A trained model, for ``"neighbours"``. Pass sections that it was not trained on: a model that has seen their
        pairs makes the result optimistic.
    genes, method, use_rep, k, temperature, mix, alpha, scaling, layer, normalized, patches_key, table_key
        As in :func:`predict_expression`; a penalty is chosen without the held-out section.
    n_boot
        Bootstrap samples of the sections.
    level
        Level of the intervals, between 0 and 1.
    rng
        Seed of the bootstrap.

    Returns
    -------
    DataFrame
        One row per ``gene``, best first: ``pearson``, the mean over held-out sections of the correlation over spots,
        its bootstrap interval ``low``, ``high`` over sections (NaN with fewer than two) and the number ``n_sections``
        of sections in which the gene varies; ``rmse`` beside ``rmse_mean``, the error of predicting the gene's mean in
        training, and ``skill``, 1 − rmse² / rmse_mean²: above 0 the prediction is better than the mean. The correlation
        of the mean is 0. A gene that varies nowhere has NaN.

    Raises
    ------
    KeyError
        Features, genes or a table that do not exist.
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
    check_count("n_boot", n_boot)
    check_share("level", level)
    seed = as_seed(rng)
    settings = PredictionSettings.of(
        method=method,
        model=model,
        use_rep=use_rep,
        k=k,
        temperature=temperature,
        mix=mix,
        alpha=alpha,
        scaling=scaling,
        layer=layer,
        normalized=normalized,
        patches_key=patches_key,
    )
    known = read_reference(reference, settings, genes, table_key)
    folds = known.folds(np.arange(len(known.section)))
    if not folds:
        raise ValueError(
            f"reference: has one section ({shorten(np.unique(known.section))}) and no patches, so nothing can be held "
            "out. Add sections, or run sp.pp.patches: halves of the section are then held out."
        )
    errors = _hold_out(known, settings, folds)
    pearson = errors.pearson
    if len(np.unique(known.origin)) == 1:  # halves of one section are no units
        pearson = mean_known(pearson)[None]
    low, high = mean_bounds(pearson, n_boot, level, numpy_stream(seed, "bootstrap of sections"))
    rmse, rmse_mean = errors.rmse, errors.rmse_mean
    table = pd.DataFrame(
        {
            "gene": known.panel.names,
            "pearson": mean_known(pearson),
            "low": low,
            "high": high,
            "n_sections": (~np.isnan(pearson)).sum(0),
            "rmse": rmse,
            "rmse_mean": rmse_mean,
            "skill": np.where(rmse_mean > 0, 1 - (rmse / np.where(rmse_mean > 0, rmse_mean, 1)) ** 2, np.nan),
        }
    )
    return table.sort_values("pearson", ascending=False, kind="stable", ignore_index=True)


@dataclass(frozen=True)
class _HeldOut:
    """Correlations ``(n_folds, G)``, and errors ``(G,)`` of the prediction and of the mean in training."""

    pearson: Floats
    rmse: Floats
    rmse_mean: Floats


def _hold_out(known: Reference, settings: PredictionSettings, folds: list[tuple[Rows, Rows]]) -> _HeldOut:
    """Predict every fold from its training rows, and compare with what was measured."""
    pearson = []
    squared, squared_mean = np.zeros((2, len(known.panel)))
    n = 0
    for train, test in tqdm(folds, desc="holding out", unit="section"):
        predicted, _ = fit_predictor(settings, known, train).predict(known.image[test])
        truth = known.y[test].toarray()
        pearson.append(pearson_per_gene(truth, predicted))
        squared += np.square(truth - predicted).sum(0, dtype=np.float64)
        training_mean = np.asarray(known.y[train].mean(0)).ravel()
        squared_mean += np.square(truth - training_mean).sum(0, dtype=np.float64)
        n += len(test)
    return _HeldOut(np.array(pearson), np.sqrt(squared / n), np.sqrt(squared_mean / n))
