"""Out-of-fold risks: what ``tl.survival`` returns, ``tl.survival_summary`` summarises and ``pl.survival`` draws."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade._checks import check_baseline, check_table, shorten
from spade._said.lines import speaks
from spade.core.arrays import Rows
from spade.core.checks import check_choice, check_count, check_flag, check_share
from spade.core.evaluation.intervals import bootstrap_weights, interval
from spade.core.rng import as_seed, numpy_stream
from spade.core.slides.survival import weighted_concordance

COLUMNS = ("representation", "repeat", "fold", "patient", "time", "event", "risk")
COMPARE = ("fold", "all")


def check_risks(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table if it holds one risk per representation, repeat and patient, of the same patients throughout."""
    table = check_table(table, COLUMNS, "sp.tl.survival")
    keys = ["representation", "repeat", "patient"]
    if (twice := table.duplicated(keys)).any():
        first = table.loc[twice, keys].iloc[0].to_dict()
        raise ValueError(
            f"table: {int(twice.sum())} rows repeat a patient, such as {first}: a patient is in one fold of every "
            "repeat. To compare several calls, as with different heads, give their representations different names."
        )
    lacking_risk = table["risk"].isna()
    if lacking_risk.any():
        raise ValueError(f"table: risk is missing in {int(lacking_risk.sum())} of {len(table)} rows.")
    sets = table.groupby(["representation", "repeat"], sort=False)["patient"].agg(frozenset)
    if sets.nunique() > 1:
        raise ValueError(
            "table: representations or repeats differ in their patients, so they cannot be compared. Pass what "
            "sp.tl.survival returned, or one representation at a time."
        )
    differ = (table.groupby("patient", sort=False)[["time", "event"]].nunique() > 1).any(axis=1)
    if differ.any():
        raise ValueError(
            f"table: time or event differ between the rows of a patient, such as {shorten(differ.index[differ], 3)}."
        )
    return table


def percentiles(rows: pd.DataFrame) -> pd.Series[float]:
    """Return the percentile of every patient, in (0, 1), by its risk within its fold, the mean over repeats."""
    folds = rows.groupby(["repeat", "fold"], sort=False)["risk"]
    place = ((folds.rank() - 0.5) / folds.transform("size")).groupby(rows["patient"], sort=False).mean()
    return (place.round(12).rank() - 0.5) / len(place)


def _c_indices(
    rows: pd.DataFrame, patients: list[str], repeats: list[int], compare: str, weights: Rows
) -> NDArray[np.float64]:
    """C-index of every repeat and set of weights, ``(n_repeats, n_sets)``."""
    found = []
    for repeat in repeats:
        of_repeat = rows[rows["repeat"] == repeat].set_index("patient").loc[patients]
        strata = of_repeat["fold"].to_numpy() if compare == "fold" else None
        time, event, risk = (of_repeat[column].to_numpy() for column in ("time", "event", "risk"))
        found.append(weighted_concordance(time, event, risk, weights, strata))
    return np.array(found)


def _of_repeat(values: NDArray[np.float64], repeat: int | None) -> NDArray[np.float64]:
    """Values of one repeat, ``(n_sets,)``, or their mean over repeats."""
    of_repeat: NDArray[np.float64] = values.mean(0) if repeat is None else values[repeat]
    return of_repeat


def _bounds(values: NDArray[np.float64], level: float, prefix: str) -> dict[str, float]:
    low, high = interval(values, level)
    return {f"{prefix}low": float(low), f"{prefix}high": float(high)}


@speaks
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

    0.5 is chance, 1 a perfect order. Patients are resampled, each with its risks in all repeats and representations;
    the models are not trained again, so the interval is that of the given risks and does not include how they vary with
    the training patients.

    Parameters
    ----------
    table
        From :func:`survival`.
    baseline
        Representation that all others are compared with; None: no comparison.
    by_repeat
        One row per repeat; else the mean over repeats.
    compare
        ``"fold"``: only pairs of one fold, whose risks come from one model. ``"all"``: all pairs, for risks that are on
        one scale in all folds. With small cohorts this value is too low, as folds with many events are predicted by
        models that saw few.
    n_boot
        Bootstrap samples of the patients.
    level
        Level of the intervals.
    rng
        Seed.

    Returns
    -------
    DataFrame
        One row per ``representation`` (and ``repeat``): ``c_index``, ``low`` and ``high`` (percentile bootstrap; NaN
        without comparable pairs), ``n_patients`` and ``n_events``. With ``baseline`` also ``difference``,
        ``difference_low`` and ``difference_high``.

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
    table = check_risks(table)
    names = list(dict.fromkeys(table["representation"]))
    repeats = sorted(set(table["repeat"]))
    if baseline is not None:
        check_baseline(baseline, names, "representations")
    check_choice("compare", compare, COMPARE)
    check_share("level", level)
    check_flag("by_repeat", by_repeat)
    patients = list(dict.fromkeys(table["patient"]))
    rng = numpy_stream(as_seed(rng), "bootstrap of patients")
    drawn = bootstrap_weights(len(patients), check_count("n_boot", n_boot), rng)
    weights = np.concatenate([np.ones((1, len(patients)), dtype=np.int64), drawn])
    events = table.drop_duplicates("patient")["event"].astype(bool)
    facts = {"n_patients": len(patients), "n_events": int(events.sum())}
    c_indices = {
        name: _c_indices(table[table["representation"] == name], patients, repeats, compare, weights) for name in names
    }
    rows = []
    for name in names:
        for repeat in range(len(repeats)) if by_repeat else (None,):
            values = _of_repeat(c_indices[name], repeat)
            row = {"representation": name} | ({} if repeat is None else {"repeat": repeats[repeat]})
            row |= {"c_index": values[0]} | _bounds(values[1:], level, "") | facts
            if baseline is not None:
                difference = values - _of_repeat(c_indices[baseline], repeat)
                row |= {"difference": difference[0]} | _bounds(difference[1:], level, "difference_")
            rows.append(row)
    return pd.DataFrame(rows)
