"""Correlations gene by gene with intervals over sections: what ``pl.expression_ranking`` draws."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spade._checks import check_table
from spade.core.rng import numpy_stream
from spade.tl._expression.table import check_benchmark, mean_bounds, mean_known, units_by_gene

TRUST = ("gene", "pearson", "low", "high")
LEVEL = 0.95


def gene_ranking(table: object, n_boot: int, seed: int) -> dict[str, pd.DataFrame]:
    """Return one table per protocol: ``representation``, ``gene``, ``pearson``, ``low``, ``high``, ``n_sections``.

    A table of ``tl.expression_trust`` is returned as it is, with an empty representation.
    """
    if isinstance(table, pd.DataFrame) and "protocol" not in table:
        trust = check_table(table, TRUST, "sp.tl.expression_trust or sp.tl.expression_benchmark")
        return {"held_out_sections": trust.assign(representation="")}
    parts: dict[str, list[pd.DataFrame]] = {}
    for (protocol, name), rows in check_benchmark(table).groupby(["protocol", "representation"], sort=False):
        units = units_by_gene(rows)
        values = units.to_numpy()
        low, high = mean_bounds(values, n_boot, LEVEL, numpy_stream(seed, "bootstrap of sections"))
        columns = {
            "representation": name,
            "gene": units.columns,
            "pearson": mean_known(values),
            "low": low,
            "high": high,
            "n_sections": (~np.isnan(values)).sum(0),
        }
        parts.setdefault(str(protocol), []).append(pd.DataFrame(columns))
    return {protocol: pd.concat(tables, ignore_index=True) for protocol, tables in parts.items()}
