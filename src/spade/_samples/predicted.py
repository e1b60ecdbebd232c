"""What ``tl.predict_expression`` wrote, read back."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spade import _keys
from spade._checks import shorten
from spade._samples.sample import Sample


def read_predicted(sample: Sample, key: str, *, deviation: bool = False) -> pd.DataFrame:
    """Return predicted expression (or its deviation) by spot and gene; raise with the predictions there are."""
    table, names = sample.table, _keys.predicted_genes(key)
    values_key = _keys.predicted_deviation(key) if deviation else _keys.predicted(key)
    if values_key not in table.obsm or names not in table.uns:
        stems = [other.removeprefix("X_") for other in table.obsm]
        predictions = [stem for stem in stems if _keys.predicted_genes(stem) in table.uns]
        raise KeyError(
            f"{sample.name}: key={key!r}: obsm[{values_key!r}] with uns[{names!r}] is not there; predictions: "
            f"{shorten(predictions) or 'none'}. Make them with sp.tl.predict_expression(samples, model, reference=...)."
        )
    values, genes = np.asarray(table.obsm[values_key]), [str(name) for name in table.uns[names]]
    if values.ndim != 2 or values.shape[1] != len(genes):
        raise ValueError(
            f"{sample.name}: obsm[{values_key!r}] has shape {values.shape}, but uns[{names!r}] names {len(genes)} "
            "genes. Predict again."
        )
    return pd.DataFrame(values, index=table.obs_names, columns=genes)
