"""Results of expression benchmarks over sections: for ``tl.expression_summary`` and ``pl.expression_ranking``."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spade._checks import check_table
from spade.core.arrays import Floats
from spade.core.evaluation.intervals import bootstrap_weights, mean_interval

BENCHMARK = ("protocol", "representation", "fold", "section", "gene", "pearson")


def check_benchmark(table: object) -> pd.DataFrame:
    """Return the table; raise unless it is a result of ``tl.expression_benchmark``."""
    return check_table(table, BENCHMARK, "sp.tl.expression_benchmark")


def mean_known(values: Floats) -> Floats:
    """Mean over rows that have a value; NaN where none has."""
    known = ~np.isnan(values)
    return np.where(known.any(0), np.nansum(values, axis=0) / np.maximum(known.sum(0), 1), np.nan)


def mean_bounds(values: Floats, n_boot: int, level: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Bootstrap interval of the mean of every column of ``(U, G)`` values; NaN with fewer than two values."""
    return mean_interval(values, bootstrap_weights(len(values), n_boot, rng), level)


def units_by_gene(table: pd.DataFrame) -> pd.DataFrame:
    """Correlations of one protocol and representation: sections (for ``"hest"`` folds) × genes."""
    unit = table["section"].where(table["section"] != "", "fold " + table["fold"].astype(str))
    return table.assign(unit=unit).pivot_table("pearson", "unit", "gene", "mean", dropna=False, observed=True)
