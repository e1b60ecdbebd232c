"""Means, intervals and paired comparisons of few-shot results."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spade._few_shot import summarise


def few_shot_summary(
    table: pd.DataFrame,
    *,
    baseline: str | None = None,
    metric: str = "balanced_accuracy",
    n_boot: int = 2_000,
    level: float = 0.95,
    rng: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Summarise few-shot results over sections or patients, and compare representations on the same draws.

    The unit is the section or group of the query, as spots of one section are no independent repeats: each unit's values are
    averaged over draws, then units are resampled. With few units such intervals are too narrow; with one there is none (NaN).

    Parameters
    ----------
    table
        From :func:`few_shot` or :func:`slide_task`.
    baseline
        Representation that all others are compared with, unit by unit; None: no comparison.
    metric
        Which metric; ``"recall"`` gives one row per class.
    n_boot
        Bootstrap samples of the units.
    level
        Of the intervals.
    rng
        Seed.

    Returns
    -------
    DataFrame
        One row per ``representation``, ``shots`` and ``label``: ``mean``, ``low`` and ``high`` (percentile bootstrap) and ``n_units``. With
        ``baseline`` also ``difference``, ``difference_low``, ``difference_high``, ``p`` (two-sided sign-flip test over units, exact up to 12 of
        them; no less than 2 / 2ⁿ with n) and ``p_corrected`` (Holm, over all rows but the baseline's).

    Raises
    ------
    KeyError
        No such metric or representation.
    TypeError, ValueError
        A table that :func:`few_shot` did not make.

    Examples
    --------
    >>> import pandas as pd
    >>> import spade as sp
    >>> rows = [
    ...     {"representation": name, "shots": 1, "repeat": 0, "unit": unit, "metric": "balanced_accuracy", "label": "", "value": value}
    ...     for name, values in {"a": (0.5, 0.7), "b": (0.6, 0.8)}.items()
    ...     for unit, value in zip("xy", values)
    ... ]
    >>> sp.tl.few_shot_summary(pd.DataFrame(rows), baseline="a")[["representation", "mean", "difference"]].round(2).values.tolist()
    [['a', 0.6, 0.0], ['b', 0.7, 0.1]]
    """
    return summarise(table, baseline, metric, n_boot, level, rng)
