"""Log-normalised expression of a sample, for plots and statistics."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd

from spade._samples import Sample, read_counts
from spade.core.expression.normalise import log_normalise


def log_expression(sample: Sample, layer: str | None, normalized: bool) -> ad.AnnData:
    """Return log-normalised expression of the spots that have counts, named by their rows."""
    counts = read_counts(sample, layer, normalized)
    rows = np.flatnonzero(np.asarray(abs(counts).sum(1)).ravel() > 0)
    return ad.AnnData(
        counts[rows] if normalized else log_normalise(counts[rows]),
        obs=pd.DataFrame(index=rows.astype(str)),
        var=pd.DataFrame(index=sample.table.var_names.astype(str)),
    )
