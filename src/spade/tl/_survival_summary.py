"""C-index of survival results, with intervals and paired comparisons."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spade._survival import summarise


def survival_summary(
    table: pd.DataFrame,
    *,
    baseline: str | None = None,
    by_repeat: bool = False,
    compare: str = "fold",
    n_boot: int = 2_000,
    level: float = 0.95,
    rng: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Summarise out-of-fold risks by Harrell's c-index, and compare representations on the same folds.

    0.5 is chance, 1 a perfect order. Patients are resampled, each with its risks of all repeats and representations; the models are
    not trained again, so the interval is that of the risks at hand and leaves out how they vary with the training patients.

    Parameters
    ----------
    table
        From :func:`survival`.
    baseline
        Representation that all others are compared with; None: no comparison.
    by_repeat
        One row per repeat; else the mean over repeats.
    compare
        ``"fold"``: only pairs of one fold, whose risks come from one model. ``"all"``: all pairs, as where risks of all folds are on one
        scale; with small cohorts its value is too low, as folds with many events are tested by models that saw few.
    n_boot
        Bootstrap samples of the patients.
    level
        Of the intervals.
    rng
        Seed.

    Returns
    -------
    DataFrame
        One row per ``representation`` (and ``repeat``): ``c_index``, ``low`` and ``high`` (percentile bootstrap; NaN without comparable pairs),
        ``n_patients`` and ``n_events``. With ``baseline`` also ``difference``, ``difference_low`` and ``difference_high``.

    Raises
    ------
    KeyError
        No such representation.
    TypeError, ValueError
        A table that :func:`survival` did not make, or in which a patient is in two folds of one repeat.

    Examples
    --------
    >>> import pandas as pd
    >>> import spade as sp
    >>> table = pd.DataFrame({"representation": "a", "repeat": 0, "fold": 0, "patient": list("wxyz")})
    >>> table = table.assign(time=[1.0, 2, 3, 4], event=[True, True, False, True], risk=[4.0, 1, 3, 2])
    >>> sp.tl.survival_summary(table)[["c_index", "n_patients", "n_events"]].values.tolist()
    [[0.6, 4.0, 3.0]]
    """
    return summarise(table, baseline, by_repeat, compare, n_boot, level, rng)
