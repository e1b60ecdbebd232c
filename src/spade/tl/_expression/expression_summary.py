"""Means and intervals of an expression benchmark."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spade.core.rng import as_seed, numpy_stream
from spade.tl._expression.table import check_benchmark, mean_bounds, mean_known, units_by_gene


def expression_summary(
    table: pd.DataFrame,
    *,
    by: str | None = None,
    n_boot: int = 2_000,
    level: float = 0.95,
    rng: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Summarise an expression benchmark over sections.

    The unit is the section (for ``"hest"`` the fold), as its spots are no independent repeats: correlations are averaged over genes within
    each, then units are resampled. With few units such intervals are too narrow; with one there is none (NaN).

    Parameters
    ----------
    table
        From :func:`expression_benchmark`.
    by
        ``"gene"``: one row per gene; None: the mean over genes.
    n_boot
        Bootstrap samples of the units.
    level
        Of the intervals.
    rng
        Seed.

    Returns
    -------
    DataFrame
        One row per ``protocol`` and ``representation`` (and ``gene``, best first): ``pearson``, ``std`` over units, ``low``, ``high``, ``n_units`` and
        ``n_missing``, the number of correlations that are NaN, as of genes that do not vary, and do not count.

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
    >>> sp.tl.expression_summary(pd.DataFrame(rows))[["pearson", "low", "high", "n_units"]].round(2).values.tolist()
    [[0.4, 0.3, 0.5, 2.0]]
    """
    table = check_benchmark(table)
    if by not in (None, "gene"):
        raise ValueError(f'by={by!r}: expected None or "gene".')
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}: expected a number between 0 and 1.")
    seed = as_seed(rng)
    found = []
    for (protocol, name), own in table.groupby(["protocol", "representation"], sort=False):
        units = units_by_gene(own)
        values = units.to_numpy() if by else mean_known(units.to_numpy().T)[:, None]
        low, high = mean_bounds(values, n_boot, level, numpy_stream(seed, "bootstrap of sections"))
        known = ~np.isnan(values)
        mean = mean_known(values)
        frame = pd.DataFrame({"protocol": protocol, "representation": name, "pearson": mean})
        if by:
            frame.insert(2, "gene", units.columns)
        frame["std"] = np.sqrt(mean_known((values - mean) ** 2))
        frame["low"], frame["high"], frame["n_units"] = low, high, known.sum(0)
        missing = own["pearson"].isna().groupby(own["gene"]).sum().reindex(units.columns)
        frame["n_missing"] = missing.to_numpy() if by else int(missing.sum())
        found.append(frame.sort_values("pearson", ascending=False, kind="stable"))
    return pd.concat(found, ignore_index=True)
