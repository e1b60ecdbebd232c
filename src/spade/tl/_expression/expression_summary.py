"""Means and intervals of an expression benchmark."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spade._said.lines import speaks
from spade.core.checks import check_choice, check_count, check_share
from spade.core.rng import as_seed, numpy_stream
from spade.tl._expression.table import check_benchmark, mean_bounds, mean_known, units_by_gene


@speaks
def expression_summary(
    table: pd.DataFrame,
    *,
    by: str | None = None,
    n_boot: int = 2_000,
    level: float = 0.95,
    rng: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Summarise an expression benchmark over sections.

    The unit is the section (for ``"hest"`` the fold), because its spots are not independent replicates: correlations
    are averaged over genes within each unit, then units are resampled. With few units these intervals are too narrow;
    with a single one they are NaN.

    Parameters
    ----------
    table
        From :func:`expression_benchmark`.
    by
        ``"gene"``: one row per gene; None: the mean over genes.
    n_boot
        Bootstrap samples of the units.
    level
        Level of the intervals, between 0 and 1.
    rng
        Seed.

    Returns
    -------
    DataFrame
        One row per ``protocol`` and ``representation`` (and ``gene``, best first): ``pearson``, ``std`` over units,
        ``low``, ``high``, ``n_units`` and ``n_missing``, the number of correlations that are NaN and do not count, as
        those of genes that do not vary.

    Raises
    ------
    TypeError, ValueError
        A table that :func:`expression_benchmark` did not make.

    Examples
    --------
    >>> import pandas as pd
    >>> import spade as sp
    >>> rows = [
    ...     {"protocol": "sound", "representation": "X", "fold": s, "section": s, "gene": g, "pearson": p}
    ...     for s, values in {"a": (0.2, 0.4), "b": (0.4, 0.6)}.items()
    ...     for g, p in zip(("Mbp", "Plp1"), values)
    ... ]
    >>> summary = sp.tl.expression_summary(pd.DataFrame(rows))
    >>> summary[["pearson", "low", "high", "n_units"]].round(2).values.tolist()
    [[0.4, 0.3, 0.5, 2.0]]
    """
    table = check_benchmark(table)
    if by is not None:
        check_choice("by", by, ("gene",))
    check_count("n_boot", n_boot)
    check_share("level", level)
    seed = as_seed(rng)
    parts = []
    for (protocol, name), rows in table.groupby(["protocol", "representation"], sort=False):
        units = units_by_gene(rows)
        values = units.to_numpy() if by else mean_known(units.to_numpy().T)[:, None]
        low, high = mean_bounds(values, n_boot, level, numpy_stream(seed, "bootstrap of sections"))
        mean = mean_known(values)
        part = pd.DataFrame({"protocol": protocol, "representation": name, "pearson": mean})
        if by:
            part.insert(2, "gene", units.columns)
        part["std"] = np.sqrt(mean_known((values - mean) ** 2))
        part["low"], part["high"], part["n_units"] = low, high, (~np.isnan(values)).sum(0)
        missing = rows["pearson"].isna().groupby(rows["gene"]).sum().reindex(units.columns)
        part["n_missing"] = missing.to_numpy() if by else int(missing.sum())
        parts.append(part.sort_values("pearson", ascending=False, kind="stable"))
    return pd.concat(parts, ignore_index=True)
