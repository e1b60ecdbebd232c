"""Out-of-fold risks: what ``tl.survival`` returns, ``tl.survival_summary`` summarises and ``pl.survival`` draws."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade._checks import check_table, shorten
from spade.core.checks import check_count
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
        one = table.loc[twice, keys].iloc[0].to_dict()
        raise ValueError(
            f"table: {int(twice.sum())} rows repeat a patient, such as {one}: a patient is in one fold of every repeat. To "
            "compare several calls, as with different heads, give their representations different names."
        )
    lacking_risk = table["risk"].isna()
    if lacking_risk.any():
        raise ValueError(f"table: risk is missing in {int(lacking_risk.sum())} of {len(table)} rows.")
    sets = table.groupby(["representation", "repeat"], sort=False)["patient"].agg(frozenset)
    if sets.nunique() > 1:
        raise ValueError(
            "table: representations or repeats differ in their patients, so they cannot be compared. Pass what sp.tl.survival "
            "returned, or one representation at a time."
        )
    facts = table.groupby("patient", sort=False)[["time", "event"]].nunique()
    if (facts > 1).any(axis=None):
        raise ValueError(
            f"table: time or event differ between the rows of a patient, as of {shorten(facts.index[(facts > 1).any(axis=1)])}."
        )
    return table


def percentiles(own: pd.DataFrame) -> pd.Series:
    """Return the place of every patient, in (0, 1), by its risk among those of its fold, the mean over repeats."""
    folds = own.groupby(["repeat", "fold"], sort=False)["risk"]
    place = ((folds.rank() - 0.5) / folds.transform("size")).groupby(own["patient"], sort=False).mean()
    return (place.round(12).rank() - 0.5) / len(place)


def _values(
    own: pd.DataFrame, patients: list[str], repeats: list[int], compare: str, weights: NDArray[np.int64]
) -> NDArray[np.float64]:
    """C-index of every repeat and set of weights, ``(n_repeats, n_sets)``."""
    found = []
    for repeat in repeats:
        one = own[own["repeat"] == repeat].set_index("patient").loc[patients]
        strata = one["fold"].to_numpy() if compare == "fold" else None
        time, event, risk = (one[column].to_numpy() for column in ("time", "event", "risk"))
        found.append(weighted_concordance(time, event, risk, weights, strata))
    return np.array(found)


def _of(values: NDArray[np.float64], repeat: int | None) -> NDArray[np.float64]:
    return values.mean(0) if repeat is None else values[repeat]


def _bounds(values: NDArray[np.float64], level: float, prefix: str) -> dict[str, float]:
    low, high = interval(values, level)
    return {f"{prefix}low": float(low), f"{prefix}high": float(high)}


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
    table = check_risks(table)
    names = list(dict.fromkeys(table["representation"]))
    repeats = sorted(set(table["repeat"]))
    if baseline is not None and baseline not in names:
        raise KeyError(f"baseline={baseline!r} is not in the table; representations: {shorten(names)}.")
    if compare not in COMPARE:
        raise ValueError(f'compare={compare!r}: expected "fold" or "all".')
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}: expected a number between 0 and 1.")
    patients = list(dict.fromkeys(table["patient"]))
    drawn = bootstrap_weights(
        len(patients), check_count("n_boot", n_boot), numpy_stream(as_seed(rng), "bootstrap of patients")
    )
    weights = np.concatenate([np.ones((1, len(patients)), dtype=np.int64), drawn])
    first = table.drop_duplicates("patient")
    facts = {"n_patients": len(patients), "n_events": int(first["event"].astype(bool).sum())}
    values = {
        name: _values(table[table["representation"] == name], patients, repeats, compare, weights) for name in names
    }
    rows = []
    for name in names:
        for repeat in range(len(repeats)) if by_repeat else (None,):
            found = _of(values[name], repeat)
            row = {"representation": name} | ({} if repeat is None else {"repeat": repeats[repeat]})
            row |= {"c_index": found[0]} | _bounds(found[1:], level, "") | facts
            if baseline is not None:
                difference = found - _of(values[baseline], repeat)
                row |= {"difference": difference[0]} | _bounds(difference[1:], level, "difference_")
            rows.append(row)
    return pd.DataFrame(rows)
