"""Few-shot results, summarised over units: for ``tl.few_shot_summary`` and ``pl.few_shot``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from spade._checks import check_baseline, check_table, shorten
from spade._said.lines import speaks
from spade.core.checks import check_count, check_share, check_text
from spade.core.evaluation.intervals import bootstrap_weights, holm
from spade.core.evaluation.units import unit_difference, unit_mean
from spade.core.rng import as_seed, numpy_stream

COLUMNS = ("representation", "shots", "repeat", "unit", "metric", "label", "value")
#: Columns of cohorts that heads were not trained on, beside those that they were.
COHORT = ["evaluation", "cohort"]
#: Level of the bounds that a table has of its own.
LEVEL = 0.95


def of_metric(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the rows of one metric, or raise if this is no result of ``tl.few_shot``."""
    table = check_table(table, COLUMNS, "sp.tl.few_shot")
    metrics = sorted(set(table["metric"]))
    if check_text("metric", metric) not in metrics:
        raise KeyError(f"metric={metric!r} is not in the table; metrics: {shorten(metrics)}.")
    rows = table[table["metric"] == metric]
    keys = [name for name in (*COLUMNS, *COHORT) if name != "value" and name in rows]
    if rows.duplicated(keys).any():
        raise ValueError(
            "table: rows for the same representation and draw occur more than once, as when results of several "
            "classifiers are concatenated. Summarise them one by one, or rename the representations."
        )
    if rows["value"].isna().all():
        raise ValueError(
            f"metric={metric!r} is NaN throughout: every section or group of the query has a single class. Use a "
            "metric that does not compare classes, or groups that have several."
        )
    return rows


def unit_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over draws: units × (representation, shots, label)."""
    return rows.pivot_table("value", "unit", ["representation", "shots", "label"], "mean", observed=True)


def unit_differences(table: pd.DataFrame, metric: str, baseline: str) -> pd.DataFrame:
    """Mean difference to the baseline of every unit: units × (representation, shots)."""
    means = unit_means(of_metric(table, metric)).T.groupby(["representation", "shots"], sort=False).mean().T
    return means.apply(lambda column: column - means[baseline, column.name[1]])


@speaks
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

    The unit is the section or group of the query, because spots of one section are not independent replicates: the
    values of each unit are averaged over draws, then units are resampled. With few units these intervals are too
    narrow. With a single one they are NaN, unless it is a cohort, or all folds of :func:`slide_task`: then they are the
    bounds over its patients, at the level of 0.95 only.

    Parameters
    ----------
    table
        From :func:`few_shot` or :func:`slide_task`.
    baseline
        Representation that all others are compared with, unit by unit; None: no comparison.
    metric
        Metric to summarise; ``"recall"`` gives one row per class.
    n_boot
        Bootstrap samples of the units.
    level
        Level of the intervals, between 0 and 1.
    rng
        Seed.

    Returns
    -------
    DataFrame
        One row per ``representation``, ``shots`` and ``label``, and per ``evaluation`` and ``cohort`` if the table has
        them: ``mean``, ``low`` and ``high`` (percentile bootstrap)
        and ``n_units``. With ``baseline`` also ``difference``, ``difference_low``, ``difference_high``, ``p``
        (two-sided sign-flip test over units, exact up to 12 of them; with n units at least 2 / 2ⁿ) and ``p_corrected``
        (Holm, over all rows but those of the baseline).

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
    >>> draw = {"shots": 1, "repeat": 0, "metric": "balanced_accuracy", "label": ""}
    >>> rows = [
    ...     {"representation": name, "unit": unit, "value": value} | draw
    ...     for name, values in {"a": (0.5, 0.7), "b": (0.6, 0.8)}.items()
    ...     for unit, value in zip("xy", values)
    ... ]
    >>> summary = sp.tl.few_shot_summary(pd.DataFrame(rows), baseline="a")
    >>> summary[["representation", "mean", "difference"]].round(2).values.tolist()
    [['a', 0.6, 0.0], ['b', 0.7, 0.1]]
    """
    rows = of_metric(table, metric)
    if baseline is not None:
        check_baseline(baseline, list(dict.fromkeys(rows["representation"])), "representations")
    check_count("n_boot", n_boot)
    check_share("level", level)
    seed, parts = as_seed(rng), []
    for place, own in _by_cohort(rows):
        generator = numpy_stream(seed, "bootstrap of units")
        parts += [place | line for line in _lines(own, baseline, n_boot, level, generator)]
    summary = pd.DataFrame(parts)
    if baseline is not None:
        summary["p_corrected"] = holm(summary["p"].to_numpy())
    return summary


def _by_cohort(rows: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Yield what is summarised by itself: every cohort, if there are such, or all rows."""
    if not {*COHORT} <= set(rows):
        yield {}, rows
        return
    for place, own in rows.groupby(COHORT, sort=False, dropna=False):
        yield dict(zip(COHORT, place, strict=True)), own


def _lines(
    rows: pd.DataFrame, baseline: str | None, n_boot: int, level: float, generator: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Yield a summary per representation, number of shots and label."""
    names, means = list(dict.fromkeys(rows["representation"])), unit_means(rows)
    weights = bootstrap_weights(len(means), n_boot, generator)
    for shots, label, name in product(sorted(set(rows["shots"])), sorted(set(rows["label"])), names):
        if (name, shots, label) not in means:
            continue
        values = means[name, shots, label].to_numpy()
        line = {"representation": name, "shots": shots, "label": label} | unit_mean(values, weights, level)
        if line["n_units"] == 1 and level == LEVEL and "low" in rows:
            keys = (rows["representation"] == name) & (rows["shots"] == shots) & (rows["label"] == label)
            line |= {bound: float(rows.loc[keys, bound].mean()) for bound in ("low", "high")}
        if baseline is not None:
            base = means[baseline, shots, label].to_numpy()
            line |= unit_difference(values, base, weights, level, None if name == baseline else generator)
        yield line
