"""Means, intervals and paired comparisons of a switchboard."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spade._switchboard import summarise


def switchboard_summary(
    table: pd.DataFrame,
    *,
    baseline: str = "frozen",
    over: str = "group",
    n_boot: int = 10_000,
    level: float = 0.95,
    rng: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Summarise a switchboard over patients or sections, and compare every variant with one of them, unit by unit.

    Seeds are averaged within each section, and sections within each group; then these units are resampled, as spots of one section are no
    independent repeats. With few units such intervals are too narrow; with one there is none (NaN).

    Parameters
    ----------
    table
        From :func:`switchboard`.
    baseline
        Variant that all others are compared with.
    over
        ``"group"``: the unit is what was held out together, such as the patient. ``"unit"``: the section.
    n_boot
        Bootstrap samples of the units.
    level
        Of the intervals.
    rng
        Seed.

    Returns
    -------
    DataFrame
        One row per ``task``, ``metric``, ``by``, ``direction``, ``shots`` and ``variant``: ``mean``, ``low`` and ``high`` (percentile bootstrap), ``n_units``, ``chance``;
        ``difference`` to the baseline, ``difference_low``, ``difference_high``, ``p`` (two-sided sign-flip test over units, exact up to 12 of them; no
        less than 2 / 2ⁿ with n) and ``p_corrected`` (Holm, over all comparisons of the metric). A figure of the ``"model"`` is held against the
        baseline's own or, where it has none, as frozen features have no head, against that of its probe.

    Raises
    ------
    KeyError
        No such variant.
    TypeError, ValueError
        A table that :func:`switchboard` did not make.

    Examples
    --------
    >>> import pandas as pd
    >>> import spade as sp
    >>> facts = {"seed": 0, "task": "expression", "metric": "pearson", "by": "probe", "direction": "", "shots": 0, "chance": 0.0}
    >>> rows = [
    ...     {"variant": name, "fold": unit, "unit": unit, "group": unit, "value": value} | facts
    ...     for name, values in {"frozen": (0.2, 0.4), "seal": (0.3, 0.6)}.items()
    ...     for unit, value in zip("xy", values)
    ... ]
    >>> sp.tl.switchboard_summary(pd.DataFrame(rows))[["variant", "mean", "difference"]].round(2).values.tolist()
    [['frozen', 0.3, 0.0], ['seal', 0.45, 0.15]]
    """
    return summarise(table, baseline, over, n_boot, level, rng)
