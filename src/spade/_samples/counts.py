"""Log-normalised expression of a sample, for plots and statistics."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse

from spade import _keys
from spade._checks import shorten
from spade._samples.sample import Sample
from spade.core.expression.normalise import log_normalise
from spade.models import GenePanel


def log_expression(sample: Sample, layer: str | None, normalized: bool) -> ad.AnnData:
    """Return log-normalised expression of the spots that have counts, named by their rows."""
    counts = read_counts(sample, layer, normalized)
    rows = np.flatnonzero(np.asarray(abs(counts).sum(1)).ravel() > 0)
    return ad.AnnData(
        counts[rows] if normalized else log_normalise(counts[rows]),
        obs=pd.DataFrame(index=rows.astype(str)),
        var=pd.DataFrame(index=sample.table.var_names.astype(str)),
    )


def read_counts(
    sample: Sample, layer: str | None = None, normalized: bool = False, smoothed: bool = True
) -> csr_matrix:
    """Return ``X`` (layer None or ``"X"``) or a layer as CSR float32, checked.

    Raw counts must be finite, non-negative whole numbers; with ``normalized=True`` they must only be finite. Those that
    ``pp.smooth_expression`` averaged need not be whole, unless ``smoothed=False`` asks for counts that are not averaged.
    """
    table = sample.table
    in_x = layer is None or (layer == "X" and layer not in table.layers)
    where = "X" if in_x else f"layers[{layer!r}]"
    if not in_x and layer not in table.layers:
        there = [key for key in table.layers if key is not None]  # which newer anndata lists for X
        raise KeyError(
            f"{sample.name}: layer={layer!r} is not there; layers: {shorten(there) or 'none'} ('X' names X itself)."
        )
    matrix = table.X if in_x else table.layers[layer]
    if matrix is None:
        raise ValueError(f"{sample.name}: {where} of tables[{sample.table_key!r}] is empty; name a layer= with counts.")
    counts = csr_matrix(matrix if issparse(matrix) else np.asarray(matrix), dtype=np.float32)
    values = counts.data
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise ValueError(f"{sample.name}: {where} has {bad} values that are NaN or infinite. Set or remove them first.")
    if not normalized and (len(values) and values.min() < 0):
        raise ValueError(
            f"{sample.name}: {where} has negative values (lowest {values.min():g}), but raw counts are expected. Name the "
            "layer= that holds the counts, or pass normalized=True to use the values as they are."
        )
    averaged = not in_x and _keys.read_provenance(table.uns, str(layer)).get("function") == _keys.SMOOTHING
    if not normalized and not (averaged and smoothed) and not np.array_equal(values, np.round(values)):
        example = values[values != np.round(values)][0]
        raise ValueError(
            f"{sample.name}: {where} has values that are not whole numbers (such as {example:g}), but raw counts are "
            "expected. Name the layer= that holds the counts, or pass normalized=True to use the values as they are."
        )
    if not table.var_names.is_unique:
        repeated = table.var_names[table.var_names.duplicated()].unique()
        raise ValueError(
            f"{sample.name}: {len(repeated)} gene names occur more than once, such as {shorten(repeated)}. Make them "
            "unique (table.var_names_make_unique()) or aggregate them."
        )
    return counts


def read_expression(
    sample: Sample, panel: GenePanel, layer: str | None, normalized: bool
) -> tuple[csr_matrix, NDArray[np.bool_], NDArray[np.bool_]]:
    """Return log-normalised expression in panel order, which genes are present, and which spots have any counts."""
    values = read_counts(sample, layer, normalized)
    filled = np.asarray(abs(values).sum(1)).ravel() > 0  # zeros may be stored
    matrix, present = panel.take(
        values if normalized else log_normalise(values, panel.target_sum), sample.table.var_names
    )
    return matrix, present, filled
