"""Few-shot results, summarised over units: what ``tl.few_shot_summary`` returns and ``pl.few_shot`` draws."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

from spade._checks import check_table, shorten
from spade.core.evaluation.intervals import bootstrap_weights, holm
from spade.core.evaluation.units import unit_difference, unit_mean
from spade.core.rng import as_seed, numpy_stream

COLUMNS = ("representation", "shots", "repeat", "unit", "metric", "label", "value")


def of_metric(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the rows of one metric, or raise if this is no result of ``tl.few_shot``."""
    table = check_table(table, COLUMNS, "sp.tl.few_shot")
    if metric not in set(table["metric"]):
        raise KeyError(f"metric={metric!r} is not in the table; metrics: {shorten(sorted(set(table['metric'])))}.")
    own = table[table["metric"] == metric]
    keys = [name for name in COLUMNS if name != "value"]
    if own.duplicated(keys).any():
        raise ValueError(
            "table: rows for the same representation and draw occur more than once, as when results of several classifiers are put "
            "together. Summarise them one by one, or give the representations other names."
        )
    if own["value"].isna().all():
        raise ValueError(
            f"metric={metric!r} is NaN throughout: every section or group of the query has a single class. Use a metric that does not "
            "compare classes, or groups that have several."
        )
    return own


def unit_means(own: pd.DataFrame) -> pd.DataFrame:
    """Mean over draws: units × (representation, shots, label)."""
    return own.pivot_table("value", "unit", ["representation", "shots", "label"], "mean", observed=True)


def unit_differences(table: pd.DataFrame, metric: str, baseline: str) -> pd.DataFrame:
    """Mean difference to the baseline of every unit: units × (representation, shots)."""
    means = unit_means(of_metric(table, metric)).T.groupby(["representation", "shots"], sort=False).mean().T
    return means.apply(lambda column: column - means[baseline, column.name[1]])


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
    own = of_metric(table, metric)
    names = list(dict.fromkeys(own["representation"]))
    if baseline is not None and baseline not in names:
        raise KeyError(f"baseline={baseline!r} is not in the table; representations: {shorten(names)}.")
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}: expected a number between 0 and 1.")
    means = unit_means(own)
    generator = numpy_stream(as_seed(rng), "bootstrap of units")
    weights = bootstrap_weights(len(means), n_boot, generator)
    rows = []
    for shots, label, name in product(sorted(set(own["shots"])), sorted(set(own["label"])), names):
        if (name, shots, label) not in means:
            continue
        values = means[name, shots, label].to_numpy()
        row = {"representation": name, "shots": shots, "label": label} | unit_mean(values, weights, level)
        if baseline is not None:
            base = means[baseline, shots, label].to_numpy()
            row |= unit_difference(values, base, weights, level, None if name == baseline else generator)
        rows.append(row)
    found = pd.DataFrame(rows)
    if baseline is not None:
        found["p_corrected"] = holm(found["p"].to_numpy())
    return found
