"""Kaplan–Meier curves of risk groups."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from spade._samples.shown.colours import SAFE
from spade.core.checks import check_count, check_share, check_text
from spade.core.slides.survival import Curve, kaplan_meier, log_rank
from spade.pl._draw.axes import GREY, SMALL, TEXT, finish, given_axes, new_figure, title
from spade.tl._slides.risks.risk_groups import LOW, RiskGroups, risk_groups

PANEL = 3.4
#: Inches per row of numbers at risk.
ROW = 0.17


def survival(
    table: pd.DataFrame | Mapping[str, Sequence[Any] | NDArray[Any]],
    *,
    groups: str | Sequence[str] | NDArray[Any] | None = None,
    n_groups: int = 2,
    representation: str | None = None,
    time_label: str = "time",
    level: float = 0.95,
    figsize: tuple[float, float] | None = None,
    ax: NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Draw the survival of groups of patients: Kaplan–Meier curves, and numbers at risk below.

    Shades are pointwise intervals (Greenwood, log-log), ticks are censored patients, and the title gives the p value of
    a log-rank test.

    Without ``groups``, patients are grouped by their out-of-fold risk, as a percentile among the patients of the same
    fold (one model predicts them all), averaged over repeats. Two groups are divided at the median: "low risk" below
    it, "high risk" from it on.

    Parameters
    ----------
    table
        From :func:`spade.tl.survival`; or, with ``groups``, any table or dict of arrays that has ``time`` and ``event``
        and one row per patient.
    groups
        A column of the table, or one label per row; None: groups by risk.
    n_groups
        Number of groups by risk, of similar size.
    representation
        The only representation to draw; None: all, side by side.
    time_label
        Label of the time axis, such as ``"years"``.
    level
        Level of the intervals, between 0 and 1.
    figsize
        Width and height of the figure in inches.
    ax
        Two Axes per representation, first all for the curves, then all for the numbers at risk; None: a new figure.
    show
        Call ``plt.show()``.
    return_fig
        Return the figure instead of the Axes.

    Returns
    -------
    Array of Axes ``(2, n_representations)``: curves, numbers at risk.

    Raises
    ------
    KeyError
        No such representation or column.
    TypeError, ValueError
        Not such a table, missing groups, equal risks that make no groups, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> data = {"time": [5, 8, 12, 3, 4, 9], "event": [1, 0, 1, 1, 1, 0]}
    >>> sp.pl.survival(data, groups=["a", "a", "a", "b", "b", "b"])[0, 0].get_title(loc="left")
    'log-rank p = 0.3'
    """
    check_count("n_groups", n_groups, 2)
    check_share("level", level)
    check_text("time_label", time_label)
    panels = risk_groups(table, groups=groups, n_groups=n_groups, representation=representation)
    axes = _panels(ax, len(panels), max(len(set(patients.group)) for patients in panels.values()), figsize)
    for (representation, patients), (above, below) in zip(panels.items(), axes.T, strict=True):
        names = sorted(set(patients.group), key=_natural, reverse=LOW in patients.group)  # low before high
        colours = {name: SAFE[i % len(SAFE)] for i, name in enumerate(names)}
        for name, colour in colours.items():
            rows = patients.group == name
            _curve(above, kaplan_meier(patients.time[rows], patients.event[rows], level), name, colour)
        _dress(above, float(patients.time.max()), time_label)
        title(above, ", ".join(filter(None, (representation, _p(patients)))))
        _numbers(below, above, patients, colours)
    return finish(axes, show=show, return_fig=return_fig)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts names by the numbers in them, not by digits."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", str(name))]


def _panels(ax: Any, n: int, n_rows: int, figsize: object) -> NDArray[Any]:
    if ax is not None:
        return given_axes(ax, (2, n), "curves, numbers at risk", figsize=figsize)
    below = ROW * n_rows + 0.15
    figure = new_figure((PANEL + 0.6) * n, PANEL - 0.4 + below + 0.6, figsize)
    return figure.subplots(2, n, squeeze=False, sharex="col", height_ratios=[PANEL - 0.4, below])


def _curve(ax: Axes, curve: Curve, name: str, colour: str) -> None:
    """Draw a curve from survival 1 at time 0; its band ends where no patient is left."""
    at = np.concatenate([[0], curve.time])
    survival, low, high = (np.concatenate([[1], values]) for values in (curve.survival, curve.low, curve.high))
    n = int(curve.n_at_risk[0])
    ax.step(at, survival, where="post", color=colour, linewidth=1.4, label=f"{name} ({curve.n_events.sum()} of {n})")
    ax.fill_between(at, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
    censored = curve.n_censored > 0
    ax.plot(
        curve.time[censored], curve.survival[censored], "|", color=colour, markersize=5, markeredgewidth=0.9, zorder=3
    )


def _p(patients: RiskGroups) -> str:
    """Return the p value of a log-rank test as text."""
    if len(set(patients.group)) < 2:
        return ""
    p = log_rank(patients.time, patients.event, patients.group.astype(str)).p
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


def _numbers(ax: Axes, above: Axes, patients: RiskGroups, colours: dict[str, str]) -> None:
    """Write the number of patients of each group at risk at the ticks of the curves."""
    low, high = above.get_xlim()
    ticks = [tick for tick in above.get_xticks() if low <= tick <= high]
    ax.set_xlim(low, high)
    ax.set_xticks(ticks)
    for row, name in enumerate(colours):
        for tick in ticks:
            n_at_risk = int((patients.time[patients.group == name] >= tick).sum())
            ax.text(tick, row, str(n_at_risk), ha="center", va="center", fontsize=SMALL)
    ax.set_ylim(len(colours) - 0.4, -0.6)
    ax.set_yticks(range(len(colours)), list(colours), fontsize=SMALL)
    for text, colour in zip(ax.get_yticklabels(), colours.values(), strict=True):
        text.set_color(colour)
    ax.tick_params(length=0, labelbottom=False, pad=10)
    ax.spines[:].set_visible(False)
    ax.set_title("at risk", fontsize=SMALL, loc="left", color=GREY)
