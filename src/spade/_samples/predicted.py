"""What ``tl.predict_expression`` wrote, and the measured expression of the same genes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from spade import _keys
from spade._checks import shorten
from spade._samples.counts import has_counts, read_counts
from spade._samples.sample import Sample
from spade.core.arrays import Floats
from spade.io._files.matrices import to_dense
from spade.models import GenePanel


def read_predicted(sample: Sample, key: str, *, deviation: bool = False, argument: str = "key") -> pd.DataFrame:
    """Return predicted expression (or its deviation) by spot and gene; raise with the predictions there are.

    ``argument`` is what messages call ``key``.
    """
    table, names = sample.table, _keys.predicted_genes(key)
    values_key = _keys.predicted_deviation(key) if deviation else _keys.predicted(key)
    if values_key not in table.obsm or names not in table.uns:
        stems = [other.removeprefix("X_") for other in table.obsm]
        predictions = [stem for stem in stems if _keys.predicted_genes(stem) in table.uns]
        raise KeyError(
            f"{sample.name}: {argument}={key!r}: obsm[{values_key!r}] with uns[{names!r}] is not there; predictions: "
            f"{shorten(predictions) or 'none'}. Make them with sp.tl.predict_expression(samples, model, reference=...)."
        )
    sample.check_current(values_key)
    values = to_dense(table.obsm[values_key], f"{sample.name}: obsm[{values_key!r}]")
    genes = [str(name) for name in table.uns[names]]
    if values.ndim != 2 or values.shape[1] != len(genes):
        raise ValueError(
            f"{sample.name}: obsm[{values_key!r}] has shape {values.shape}, but uns[{names!r}] names {len(genes)} "
            "genes. Predict again."
        )
    return pd.DataFrame(values, index=table.obs_names, columns=genes)


def read_measured(
    sample: Sample, key: str, genes: Sequence[str], layer: str | None, *, normalized: bool
) -> Floats | None:
    """Return log-normalised measured expression ``(n_obs, genes)`` of predicted genes, or None if none was measured.

    NaN: the gene was not measured, or the spot has no counts.
    """
    record = _keys.read_provenance(sample.table.uns, _keys.predicted(key))
    predicted = read_predicted(sample, key).columns
    panel = GenePanel.recorded(predicted, record)
    columns = panel.columns(sample.table.var_names)[predicted.get_indexer(list(genes))]
    if (columns < 0).all():
        return None
    counts = read_counts(sample, layer, normalized=normalized)
    values = counts if normalized else panel.normalise(counts)
    measured = np.full((sample.table.n_obs, len(columns)), np.nan)
    measured[:, columns >= 0] = values[:, columns[columns >= 0]].toarray()
    measured[~has_counts(counts)] = np.nan
    return measured
