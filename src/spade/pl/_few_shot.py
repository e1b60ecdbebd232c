"""Few-shot results: curves over shots, paired differences and classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spade._checks import check_idle, plural, shorten
from spade._said.lines import hushed
from spade._samples.shown.colours import SAFE
from spade.core.checks import check_count, check_text
from spade.pl._draw.axes import GREY, SMALL, TEXT, finish, given_axes, new_figure, title
from spade.pl._draw.predictions import cohorts_as_names
from spade.pl._draw.words import words
from spade.tl._few_shot.few_shot_summary import few_shot_summary, unit_differences

PANEL = 2.7
#: Values of metrics by chance, that of balanced accuracy aside, which depends on the number of classes.
CHANCE = {"macro_auroc": 0.5, "quadratic_kappa": 0.0, "pearson": 0.0, "r2": 0.0, "c_index": 0.5}


@hushed
def few_shot(
    table: pd.DataFrame,
    *,
    metric: str = "balanced_accuracy",
    baseline: str | None = None,
    shots: int | None = None,
    n_boot: int = 2_000,
    rng: int | np.random.Generator = 0,
    figsize: tuple[float, float] | None = None,
    ax: NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Draw few-shot results.

    Left, the metric over shots, with 95 % bootstrap intervals over units (sections, patients, folds or cohorts); the
    dashed line is chance (F1 and errors have no such line). Middle, the difference to ``baseline`` on the same draws,
    with a dot per unit. Right, the recall of every class or grade, if there are such.

    Several cohorts of :func:`spade.tl.slide_task` are drawn side by side, without the middle panel; for that, pass the
    rows of one cohort.

    Parameters
    ----------
    table
        From :func:`spade.tl.few_shot` or :func:`spade.tl.slide_task`.
    metric
        Metric of the first two panels, such as ``"pearson"`` for numbers.
    baseline
        Representation to compare with; None: the first. With a single representation there is no middle panel.
    shots
        Shots of the right panel; None: the largest number. Numbers have no such panel.
    n_boot, rng
        As in :func:`spade.tl.few_shot_summary`.
    figsize
        Width and height of the figure in inches.
    ax
        As many Axes as there are panels; None: a new figure.
    show
        Call ``plt.show()``.
    return_fig
        Return the figure instead of the Axes.

    Returns
    -------
    Array of Axes: curves, differences (with several representations), classes (if there are such).

    Raises
    ------
    KeyError
        No such metric, representation or number of shots.
    TypeError, ValueError
        Not such a table, ``shots`` without a right panel, or a wrong number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> settings = {"shots": (1, 4), "n_repeats": 3, "groupby": "patient"}
    >>> table = sp.tl.few_shot(samples, label_key="domain", use_rep="X_texture", **settings)
    >>> sp.pl.few_shot(table).shape
    (2,)
    """
    if check_text("metric", metric) == "recall":
        raise ValueError('metric="recall" is drawn in the right panel; its mean over classes is "balanced_accuracy".')
    if baseline is not None:
        check_text("baseline", baseline)
    check_count("n_boot", n_boot)
    table, can_differ = cohorts_as_names(table)
    summary = few_shot_summary(table, metric=metric, n_boot=n_boot, rng=rng)
    names = list(dict.fromkeys(summary["representation"]))
    if baseline is not None and not can_differ:
        raise ValueError(f"baseline={baseline!r}: the table has several cohorts; pass the rows of one to compare.")
    baseline = names[0] if baseline is None else baseline
    paired = few_shot_summary(table, baseline=baseline if can_differ else None, metric=metric, n_boot=n_boot, rng=rng)
    all_shots = sorted(set(summary["shots"]))
    shown = all_shots[-1] if shots is None else check_count("shots", shots, 0)
    if shown not in all_shots:
        raise KeyError(f"shots={shots!r} is not in the table; shots: {shorten(all_shots, 20)}.")
    if not (n_classes := int(table["n_classes"].iloc[0])):
        check_idle([("shots", shots, None)], "there are no classes, so there is no panel of them")
    colours = {name: SAFE[i % len(SAFE)] for i, name in enumerate(names)}
    panels = [
        "curves",
        *(["differences"] if len(names) > 1 and can_differ else []),
        *(["classes"] if n_classes else []),
    ]
    axes = _panels(ax, panels, n_classes * len(names), figsize)
    chance = CHANCE.get(metric, 1 / n_classes if metric == "balanced_accuracy" and n_classes else None)
    _curves(axes[0], summary, metric, colours, chance)
    if "differences" in panels:
        units = unit_differences(table, metric, baseline)
        _differences(axes[1], paired, units, baseline, colours)
        axes[1].set_ylabel(f"Δ {words(metric)}", fontsize=TEXT)
    if n_classes:
        recalls = few_shot_summary(table[table["shots"] == shown], metric="recall", n_boot=n_boot, rng=rng)
        _classes(axes[-1], recalls, shown, colours)
    else:
        for axis in axes:
            axis.set_xlabel("training slides", fontsize=TEXT)
    return finish(axes, show=show, return_fig=return_fig)


def _panels(ax: Any, names: list[str], n_bars: int, figsize: object) -> NDArray[Any]:
    if ax is not None:
        return given_axes(ax, (len(names),), ", ".join(names), figsize=figsize)
    ratios = [max(1.0, n_bars / 16) if name == "classes" else 1.0 for name in names]
    figure = new_figure((PANEL + 0.6) * sum(ratios), PANEL + 0.9, figsize)
    return figure.subplots(1, len(names), squeeze=False, width_ratios=ratios)[0]


def _positions(summary: pd.DataFrame, names: list[str]) -> dict[tuple[str, int], float]:
    """Return where each representation and number of shots is drawn; representations stand side by side."""
    shots = sorted(set(summary["shots"]))
    step = min(0.1, 0.5 / len(names))
    return {
        (name, k): i + step * (j - (len(names) - 1) / 2) for j, name in enumerate(names) for i, k in enumerate(shots)
    }


def _curves(ax: Axes, summary: pd.DataFrame, metric: str, colours: dict[str, str], chance: float | None) -> None:
    place = _positions(summary, list(colours))
    for name, own in summary.groupby("representation", sort=False):
        x = np.array([place[name, k] for k in own["shots"]])
        ax.vlines(x, own["low"], own["high"], color=colours[name], linewidth=1.2)
        ax.plot(x, own["mean"], "o-", color=colours[name], markersize=3.5, linewidth=1.2, label=name)
    if chance is not None:
        ax.axhline(chance, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    _shots_axis(ax, summary)
    ax.set_ylabel(words(metric), fontsize=TEXT)
    ax.legend(
        fontsize=SMALL, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.2), borderaxespad=0, handlelength=1.5
    )
    dashed = "" if chance is None else ", chance dashed"
    n = int(summary["n_units"].max())
    title(ax, f"{plural(n, 'unit')}{dashed}")


def _differences(ax: Axes, paired: pd.DataFrame, units: pd.DataFrame, baseline: str, colours: dict[str, str]) -> None:
    others = [name for name in colours if name != baseline]
    place = _positions(paired, others)
    for name in others:
        rows = (
            paired[paired["representation"] == name]
            .groupby("shots")[["difference", "difference_low", "difference_high"]]
            .mean()
        )
        x = np.array([place[name, k] for k in rows.index])
        for at, k in zip(x, rows.index, strict=True):
            dots = units[name, k].to_numpy()
            ax.plot(
                np.full(len(dots), at), dots, "o", color=colours[name], markersize=2.5, alpha=0.35, markeredgewidth=0
            )
        ax.vlines(x, rows["difference_low"], rows["difference_high"], color=colours[name], linewidth=1.2)
        ax.plot(x, rows["difference"], "o", color=colours[name], markersize=4)
    ax.axhline(0, color=GREY, linewidth=0.8)
    _shots_axis(ax, paired)
    title(ax, f"difference to {baseline}, paired")


def _classes(ax: Axes, summary: pd.DataFrame, shots: int, colours: dict[str, str]) -> None:
    labels = sorted(set(summary["label"]))
    width = 0.8 / len(colours)
    for j, (name, colour) in enumerate(colours.items()):
        own = summary[summary["representation"] == name].set_index("label").reindex(labels)
        x = np.arange(len(labels)) + width * (j - (len(colours) - 1) / 2)
        ax.bar(x, own["mean"], width * 0.9, color=colour)
        ax.vlines(x, own["low"], own["high"], color="black", linewidth=0.8)
    ax.set_xticks(range(len(labels)), labels, rotation=35, ha="right", fontsize=SMALL)
    ax.set_ylim(0, 1)
    ax.set_ylabel("recall", fontsize=TEXT)
    ax.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    ax.spines[["top", "right"]].set_visible(False)
    title(ax, f"classes, {shots or 'all'} {'labels' if not shots else 'shot' if shots == 1 else 'shots'}")


def _shots_axis(ax: Axes, summary: pd.DataFrame) -> None:
    shots = sorted(set(summary["shots"]))
    ax.set_xticks(range(len(shots)), [str(k) if k else "all" for k in shots])
    ax.set_xlabel("labels per class", fontsize=TEXT)
    ax.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    ax.spines[["top", "right"]].set_visible(False)
