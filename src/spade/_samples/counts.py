"""Raw and log-normalised expression of a sample."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade import _keys
from spade._checks import shorten
from spade._samples.sample import Sample
from spade.core.checks import check_flag, check_text
from spade.core.expression.normalise import log_normalise
from spade.io._files.matrices import to_csr
from spade.models import GenePanel

#: Whole numbers above this are counts: log2 of one count in a million is 20, and natural logarithms are lower.
LARGEST_LOG = 20


def log_expression(sample: Sample, layer: str | None, *, normalized: bool) -> ad.AnnData:
    """Return log-normalised expression of the spots that have counts, named by their rows."""
    counts = read_counts(sample, layer, normalized=normalized, logarithms=True)
    rows = np.flatnonzero(has_counts(counts))
    return ad.AnnData(
        counts[rows] if normalized else log_normalise(counts[rows]),
        obs=pd.DataFrame(index=rows.astype(str)),
        var=pd.DataFrame(index=sample.table.var_names.astype(str)),
    )


def has_counts(counts: csr_matrix) -> NDArray[np.bool_]:
    """Whether a spot has any value other than zero; zeros may be stored."""
    return np.asarray(abs(counts).sum(1)).ravel() > 0


def read_counts(
    sample: Sample,
    layer: str | None = None,
    *,
    normalized: bool = False,
    smoothed: bool = True,
    logarithms: bool = False,
) -> csr_matrix:
    """Return ``X`` (layer None or ``"X"``) or a layer as CSR float32, checked.

    Raw counts must be finite, non-negative whole numbers; with ``normalized=True`` they must only be finite. A layer
    that ``pp.smooth_expression`` wrote need not hold whole numbers, unless ``smoothed=False`` rules out averaged
    counts. With ``logarithms``, values that are called normalised and are clearly counts are an error: whole numbers
    above 20, or a smoothed layer.
    """
    normalized = check_flag("normalized", normalized)
    matrix, source, is_smoothed = _matrix(sample, layer)
    counts = to_csr(matrix, f"{sample.name}: {source}")
    _check_values(counts.data, f"{sample.name}: {source}", raw=not normalized, whole=not (is_smoothed and smoothed))
    if logarithms and normalized:
        _check_logarithms(counts.data, f"{sample.name}: {source}", is_smoothed=is_smoothed)
    names = sample.table.var_names
    if not names.is_unique:
        repeated = names[names.duplicated()].unique()
        raise ValueError(
            f"{sample.name}: {len(repeated)} gene names occur more than once, such as {shorten(repeated)}. Make them "
            "unique (table.var_names_make_unique()) or aggregate them."
        )
    return counts


def _matrix(sample: Sample, layer: str | None) -> tuple[object, str, bool]:
    """Return a matrix of the table, what to call it, and whether ``pp.smooth_expression`` wrote it."""
    table = sample.table
    if layer is None or (check_text("layer", layer) == "X" and layer not in table.layers):
        matrix, source, record = table.X, "X", _keys.Record()
    elif layer in table.layers:
        sample.check_current(layer)
        matrix, source, record = table.layers[layer], f"layers[{layer!r}]", _keys.read_provenance(table.uns, layer)
    else:
        layers = [key for key in table.layers if key is not None]  # newer versions of anndata list X as None
        raise KeyError(
            f"{sample.name}: layer={layer!r} is not there; layers: {shorten(layers) or 'none'} ('X' names X itself)."
        )
    if matrix is None:
        raise ValueError(
            f"{sample.name}: {source} of tables[{sample.table_key!r}] is empty; name a layer= with counts."
        )
    return matrix, source, record.get("function") == _keys.SMOOTHING


def _check_values(values: NDArray[np.float32], source: str, *, raw: bool, whole: bool) -> None:
    """Raise if values are not finite or, for raw counts, negative or not whole numbers."""
    advice = "Name the layer= that holds the counts, or pass normalized=True to use the values as they are."
    if not np.isfinite(values).all():
        n_bad = int((~np.isfinite(values)).sum())
        raise ValueError(f"{source} has {n_bad} values that are NaN or infinite. Set or remove them first.")
    if raw and len(values) and values.min() < 0:
        raise ValueError(
            f"{source} has negative values (lowest {values.min():g}), but raw counts are expected. {advice}"
        )
    if raw and whole and not np.array_equal(values, np.round(values)):
        example = values[values != np.round(values)][0]
        raise ValueError(
            f"{source} has values that are not whole numbers (such as {example:g}), but raw counts are expected. "
            f"{advice}"
        )


def _check_logarithms(values: NDArray[np.float32], source: str, *, is_smoothed: bool) -> None:
    """Raise if values are counts instead of their logarithms."""
    what = ""
    if is_smoothed:
        what = "averaged counts, as pp.smooth_expression wrote them"
    elif len(values) and values.max() > LARGEST_LOG and np.array_equal(values, np.round(values)):
        what = f"whole numbers up to {values.max():g}, as raw counts are"
    if what:
        raise ValueError(
            f"{source} holds {what}, but normalized=True says that its values are log-normalised already. Name the "
            "layer= that holds such values, or pass normalized=False to have counts normalised here."
        )


def read_expression(
    sample: Sample, panel: GenePanel, layer: str | None, *, normalized: bool
) -> tuple[csr_matrix, NDArray[np.bool_], NDArray[np.bool_]]:
    """Return expression in the scale and order of a panel, which genes are present, and which spots have any counts."""
    values = read_counts(sample, layer, normalized=normalized, logarithms=panel.scale != "counts")
    matrix, present = panel.take(values if normalized else panel.normalise(values), sample.table.var_names)
    return matrix, present, has_counts(values)
