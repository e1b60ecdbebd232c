"""Groups of patients whose survival is compared: what ``pl.survival`` draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade._checks import plural, shorten
from spade.core.arrays import Floats
from spade.core.slides.survival import check_times
from spade.tl._slides.risks.survival_summary import check_risks, percentiles

LOW, HIGH = "low risk", "high risk"


class RiskGroups(NamedTuple):
    """Time, event and group of every patient."""

    time: Floats
    event: NDArray[np.bool_]
    group: NDArray[np.object_]


def risk_groups(
    table: object, *, groups: object = None, n_groups: int = 2, representation: str | None = None
) -> dict[str, RiskGroups]:
    """Group patients as told, or by their out-of-fold risks for each representation (one only: ``""``).

    Parameters
    ----------
    table
        From ``tl.survival``, or any table with ``time`` and ``event`` if there are ``groups``.
    groups
        A column of the table, or one label per row; None: groups of risk.
    n_groups
        Number of groups of risk, of similar size.
    representation
        The only representation; None: all.
    """
    frame = _frame(table)
    if groups is not None:
        return {"": _labelled(frame, _labels(frame, groups))}
    names = list(dict.fromkeys(check_risks(frame)["representation"]))
    if representation is not None and representation not in names:
        raise KeyError(f"representation={representation!r} is not in the table; representations: {shorten(names)}.")
    return {
        "" if len(names) == 1 else name: _by_risk(frame[frame["representation"] == name], n_groups)
        for name in (names if representation is None else [representation])
    }


def _frame(table: object) -> pd.DataFrame:
    """Return a table with times and events."""
    if not isinstance(table, (pd.DataFrame, Mapping)):
        raise TypeError(f"table: got {type(table).__name__}; expected a DataFrame, or a dict with time and event.")
    if isinstance(table, Mapping):
        shapes = {str(name): np.shape(values) for name, values in table.items()}
        if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
            raise ValueError(f"table: expected one value per patient in every array; got shapes {shapes}.")
        table = pd.DataFrame(dict(table))
    frame: pd.DataFrame = table
    if missing := [name for name in ("time", "event") if name not in frame]:
        raise ValueError(f"table lacks {shorten(missing)}; columns: {shorten(frame.columns, 20)}.")
    return frame


def _labels(frame: pd.DataFrame, groups: object) -> NDArray[np.str_]:
    """Return the label of every row."""
    if isinstance(groups, str):
        if groups not in frame:
            raise KeyError(f"groups={groups!r} is not in the table; columns: {shorten(frame.columns, 20)}.")
        groups = frame[groups]
    labels = np.asarray(groups, dtype=object)
    if labels.shape != (len(frame),):
        got = plural(len(labels), "label") if labels.ndim == 1 else f"an array of shape {labels.shape}"
        raise ValueError(f"groups: got {got} for {len(frame)} rows of the table; expected one label per row.")
    if (missing := pd.isna(labels)).any():
        raise ValueError(f"groups: {int(missing.sum())} of {len(labels)} rows have none. Fill them in.")
    return labels.astype(str)


def _labelled(frame: pd.DataFrame, labels: NDArray[np.str_]) -> RiskGroups:
    """Return the groups given; a patient with several rows, as of several representations, counts once."""
    patients = pd.DataFrame({"time": frame["time"], "event": frame["event"], "group": labels})
    if "patient" in frame:
        facts = patients.groupby(frame["patient"], sort=False).nunique()
        if (differ := (facts > 1).any(axis=1)).any():
            raise ValueError(
                "table: time, event or group differ between the rows of a patient, such as "
                f"{shorten(facts.index[differ])}."
            )
        patients = patients[~frame["patient"].duplicated()]
    return RiskGroups(*check_times(patients["time"], patients["event"]), patients["group"].to_numpy(dtype=object))


def _by_risk(risks: pd.DataFrame, n_groups: int) -> RiskGroups:
    """Cut the patients of one representation into groups by the percentile of their risk."""
    patients = risks.drop_duplicates("patient")
    number = np.minimum((percentiles(risks)[patients["patient"]].to_numpy() * n_groups).astype(int), n_groups - 1)
    if len(set(number.tolist())) < 2:
        raise ValueError(
            f"n_groups={n_groups}: all risks of {risks['representation'].iloc[0]!r} are equal, so they make one group. "
            "Pass groups= instead."
        )
    names = [LOW, HIGH] if n_groups == 2 else [f"risk {i + 1} of {n_groups}" for i in range(n_groups)]
    return RiskGroups(*check_times(patients["time"], patients["event"]), np.array(names, dtype=object)[number])
