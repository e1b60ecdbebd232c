"""Kaplan–Meier curves of risk groups."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from spade._checks import shorten
from spade.core.arrays import Floats
from spade.core.checks import check_count
from spade.core.slides.survival import Curve, check_times, kaplan_meier, log_rank
from spade.pl._draw.axes import GREY, SMALL, TEXT, finish, given_axes, new_figure, title
from spade.pl._draw.colours import SAFE
from spade.tl._slides.survival_summary import check_risks, percentiles

PANEL = 3.4
#: Inches that one row of numbers at risk takes.
ROW = 0.17


def survival(
    table: pd.DataFrame | Mapping[str, Sequence[Any] | NDArray[Any]],
    *,
    groups: str | Sequence[str] | NDArray[Any] | None = None,
    n_groups: int = 2,
    representation: str | None = None,
    time_label: str = "time",
    level: float = 0.95,
    ax: NDArray[Any] | None = None,
    show: bool = False,
) -> NDArray[Any]:
    """Draw survival of groups of patients: Kaplan–Meier curves, and numbers at risk below.

    Shades are pointwise intervals (Greenwood, log-log), ticks are censored patients, and the title has the p of a log-rank test.

    Without ``groups``, patients are grouped by their out-of-fold risk: by its place among those of the same fold, which one model rated, the
    mean over repeats. Two groups are parted at the median: "low risk" below it, "high risk" from it on.

    Parameters
    ----------
    table
        From :func:`spade.tl.survival`; or any table, or dict of arrays, with ``time`` and ``event`` and one row per patient, with ``groups``.
    groups
        A column of the table, or one label per row; None: risk groups.
    n_groups
        Number of risk groups of alike size.
    representation
        Which one; None: all, side by side.
    time_label
        Of the time axis, such as ``"years"``.
    level
        Of the intervals.
    ax
        Two Axes, curves and numbers at risk, per representation; all curves come first. None: a new figure.
    show
        Call ``plt.show()``.

    Returns
    -------
    Array of Axes ``(2, n_representations)``: curves, numbers at risk.

    Raises
    ------
    KeyError
        No such representation or column.
    TypeError, ValueError
        A table of something else, missing groups, risks that cannot be parted, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> data = {"time": [5, 8, 12, 3, 4, 9], "event": [1, 0, 1, 1, 1, 0]}
    >>> sp.pl.survival(data, groups=["a", "a", "a", "b", "b", "b"])[0, 0].get_title(loc="left")
    'log-rank p = 0.3'
    """
    cohorts = _cohorts(table, groups, check_count("n_groups", n_groups, 2), representation)
    longest = max(len(set(label)) for *_, label in cohorts.values())
    axes = _panels(ax, len(cohorts), longest)
    for (name, (time, event, label)), (above, below) in zip(cohorts.items(), axes.T, strict=True):
        names = sorted(set(label), key=_natural, reverse="low risk" in label)  # low before high
        colours = {one: SAFE[i % len(SAFE)] for i, one in enumerate(names)}
        for one, colour in colours.items():
            _curve(above, kaplan_meier(time[label == one], event[label == one], level), one, colour)
        _dress(above, float(time.max()), time_label)
        title(above, ", ".join(filter(None, (name, _p(time, event, label)))))
        _numbers(below, above, time, label, colours)
    finish(show)
    return axes


RiskGroups = tuple[Floats, NDArray[np.bool_], NDArray[Any]]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort by the numbers in a name, not by their digits."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", str(name))]


def _cohorts(table: Any, groups: Any, n_groups: int, representation: str | None) -> dict[str, RiskGroups]:
    """Return time, event and group of every patient, for every panel."""
    if not isinstance(table, (pd.DataFrame, Mapping)):
        raise TypeError(f"table: got {type(table).__name__}; expected a DataFrame, or a dict with time and event.")
    frame = pd.DataFrame(dict(table)) if isinstance(table, Mapping) else table
    if missing := [name for name in ("time", "event") if name not in frame]:
        raise ValueError(f"table lacks {shorten(missing)}; columns: {shorten(frame.columns, 20)}.")
    if groups is not None:
        return {"": _given(frame, groups)}
    names = list(dict.fromkeys(check_risks(frame)["representation"]))
    if representation is not None and representation not in names:
        raise KeyError(f"representation={representation!r} is not in the table; there is {shorten(names)}.")
    return {
        "" if len(names) == 1 else name: _by_risk(frame[frame["representation"] == name], n_groups)
        for name in (names if representation is None else [representation])
    }


def _given(frame: pd.DataFrame, groups: Any) -> RiskGroups:
    """Take groups as they are; of several rows of a patient, as of several representations, one."""
    if isinstance(groups, str):
        if groups not in frame:
            raise KeyError(f"groups={groups!r} is not in the table; columns: {shorten(frame.columns, 20)}.")
        groups = frame[groups]
    label = pd.Series(np.asarray(groups, dtype=object))
    if len(label) != len(frame):
        raise ValueError(f"groups: got {len(label)} labels for {len(frame)} rows of the table.")
    if label.isna().any():
        raise ValueError(f"groups: {int(label.isna().sum())} of {len(label)} rows have none. Fill them in.")
    one = pd.DataFrame({"time": frame["time"], "event": frame["event"], "group": label.astype(str).to_numpy()})
    if "patient" in frame:
        facts = one.groupby(frame["patient"], sort=False).nunique()
        if (differ := (facts > 1).any(axis=1)).any():
            raise ValueError(
                f"table: time, event or group differ between the rows of a patient, as of {shorten(facts.index[differ])}."
            )
        one = one[~frame["patient"].duplicated()]
    return (*check_times(one["time"], one["event"]), one["group"].to_numpy())


def _by_risk(own: pd.DataFrame, n_groups: int) -> RiskGroups:
    first = own.drop_duplicates("patient")
    number = np.minimum((percentiles(own)[first["patient"]].to_numpy() * n_groups).astype(int), n_groups - 1)
    if len(set(number.tolist())) < 2:
        raise ValueError(
            f"n_groups={n_groups}: all risks of {own['representation'].iloc[0]!r} are alike, so they make one group. Pass groups= instead."
        )
    names = ["low risk", "high risk"] if n_groups == 2 else [f"risk {i + 1} of {n_groups}" for i in range(n_groups)]
    return (*check_times(first["time"], first["event"]), np.array(names, dtype=object)[number])


def _panels(ax: Any, n: int, n_rows: int) -> NDArray[Any]:
    if ax is not None:
        return given_axes(ax, (2, n), "curves, numbers at risk")
    below = ROW * n_rows + 0.15
    figure = new_figure((PANEL + 0.6) * n, PANEL - 0.4 + below + 0.6)
    return figure.subplots(2, n, squeeze=False, sharex="col", height_ratios=[PANEL - 0.4, below])


def _curve(ax: Axes, curve: Curve, name: str, colour: str) -> None:
    """Draw from survival 1 at time 0; a band ends where nobody is left."""
    at = np.concatenate([[0], curve.time])
    survival, low, high = (np.concatenate([[1], values]) for values in (curve.survival, curve.low, curve.high))
    n = int(curve.n_at_risk[0])
    ax.step(at, survival, where="post", color=colour, linewidth=1.4, label=f"{name} ({curve.n_events.sum()} of {n})")
    ax.fill_between(at, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
    censored = curve.n_censored > 0
    ax.plot(
        curve.time[censored], curve.survival[censored], "|", color=colour, markersize=5, markeredgewidth=0.9, zorder=3
    )


def _p(time: NDArray[Any], event: NDArray[Any], label: NDArray[Any]) -> str:
    if len(set(label)) < 2:
        return ""
    p = log_rank(time, event, label.astype(str)).p
    if np.isnan(p):
        return "log-rank: no events to compare"
    return "log-rank p < 0.0001" if p < 1e-4 else f"log-rank p = {p:.2g}"


def _dress(ax: Axes, last: float, time_label: str) -> None:
    ax.set_ylim(0, 1.03)
    ax.set_xlim(0, last * 1.03 if last > 0 else 1)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_ylabel("survival", fontsize=TEXT)
    ax.set_xlabel(time_label, fontsize=TEXT)
    ax.tick_params(labelsize=SMALL, width=0.6, length=2.5, labelbottom=True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(
        fontsize=SMALL, frameon=False, loc="best", handlelength=1.5, title="group (events of patients)",
        title_fontsize=SMALL, alignment="left",
    )  # fmt: skip


def _numbers(ax: Axes, above: Axes, time: NDArray[Any], label: NDArray[Any], colours: dict[str, str]) -> None:
    """Write how many of each group are still at risk at the ticks of the curves."""
    low, high = above.get_xlim()
    ticks = [tick for tick in above.get_xticks() if low <= tick <= high]
    ax.set_xlim(low, high)
    ax.set_xticks(ticks)
    for row, name in enumerate(colours):
        for tick in ticks:
            ax.text(tick, row, str(int((time[label == name] >= tick).sum())), ha="center", va="center", fontsize=SMALL)
    ax.set_ylim(len(colours) - 0.4, -0.6)
    ax.set_yticks(range(len(colours)), list(colours), fontsize=SMALL)
    for text, colour in zip(ax.get_yticklabels(), colours.values(), strict=True):
        text.set_color(colour)
    ax.tick_params(length=0, labelbottom=False, pad=10)
    ax.spines[:].set_visible(False)
    ax.set_title("at risk", fontsize=SMALL, loc="left", color=GREY)
