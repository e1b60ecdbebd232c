"""Results of switchboards, summarised over patients or sections."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spade._checks import check_baseline, check_table
from spade._said.lines import speaks
from spade.core.checks import check_choice, check_count, check_share
from spade.core.evaluation.intervals import bootstrap_weights, holm
from spade.core.evaluation.units import unit_difference, unit_mean
from spade.core.rng import as_seed, numpy_stream

#: Columns that identify a figure of a variant.
FIGURE = ["task", "metric", "by", "direction", "shots"]
COLUMNS = ["variant", "fold", "seed", "unit", "group", *FIGURE, "value", "chance"]
PROBE = "probe"
UNITS = ("group", "unit")


def check_switchboard(table: object) -> pd.DataFrame:
    """Return the table, or raise if it is not a result of ``tl.switchboard``."""
    checked = check_table(table, COLUMNS, "sp.tl.switchboard")
    if checked.duplicated(COLUMNS[:-2]).any():
        raise ValueError(
            "table: rows of the same variant, seed, unit and figure occur more than once, as when two tables are "
            "concatenated. Summarise them one by one, or give the variants other names."
        )
    return checked


@speaks
def switchboard_summary(
    table: pd.DataFrame,
    *,
    baseline: str = "frozen",
    over: str = "group",
    n_boot: int = 10_000,
    level: float = 0.95,
    rng: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Summarise a switchboard over patients or sections, and compare every variant with a baseline, unit by unit.

    Seeds are averaged within each section, and sections within each group; then these units are resampled, as the spots
    of a section are not independent repeats. With few units such intervals are too narrow; with a single unit there is
    none (NaN).

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
        Level of the intervals.
    rng
        Seed.

    Returns
    -------
    DataFrame
        One row per ``task``, ``metric``, ``by``, ``direction``, ``shots`` and ``variant``: ``mean``, ``low`` and
        ``high`` (percentile bootstrap), ``n_units``, ``chance``; ``difference`` to the baseline, ``difference_low``,
        ``difference_high``, ``p`` (two-sided sign-flip test over units, exact up to 12 of them; no less than 2 / 2ⁿ
        with n units) and ``p_corrected`` (Holm, over all comparisons of the metric). A figure of the ``"model"`` is
        compared with the same figure of the baseline or, where it has none, as frozen features have no head, with that
        of the baseline's probe.

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
    >>> facts = {"seed": 0, "task": "expression", "metric": "pearson", "by": "probe", "direction": "", "shots": 0}
    >>> facts |= {"chance": 0.0}
    >>> rows = [
    ...     {"variant": name, "fold": unit, "unit": unit, "group": unit, "value": value} | facts
    ...     for name, values in {"frozen": (0.2, 0.4), "seal": (0.3, 0.6)}.items()
    ...     for unit, value in zip("xy", values)
    ... ]
    >>> sp.tl.switchboard_summary(pd.DataFrame(rows))[["variant", "mean", "difference"]].round(2).values.tolist()
    [['frozen', 0.3, 0.0], ['seal', 0.45, 0.15]]
    """
    table = check_switchboard(table)
    names = list(dict.fromkeys(table["variant"]))
    check_baseline(baseline, names, "variants")
    check_choice("over", over, UNITS)
    check_share("level", level)
    check_count("n_boot", n_boot)
    keys = [*FIGURE, "variant"]
    sections = table.groupby([*keys, "group", "unit"], sort=False)[["value", "chance"]].mean()
    by_unit = sections.groupby([*keys, over], sort=False).mean()
    units = by_unit["value"].unstack(over).sort_index(axis=1)
    chance = by_unit["chance"].groupby(keys, sort=False).mean()
    generator = numpy_stream(as_seed(rng), "bootstrap of units")
    weights = bootstrap_weights(units.shape[1], n_boot, generator)
    rows = []
    for key in chance.index:
        *figure, name = key
        of_baseline = (*figure, baseline)
        if of_baseline not in units.index:  # frozen features have no head and no joint space
            of_baseline = (*figure[:2], PROBE, *figure[3:], baseline)
        values, base = units.loc[key].to_numpy(), units.loc[of_baseline].to_numpy()
        row = {"variant": name} | dict(zip(FIGURE, figure, strict=True)) | unit_mean(values, weights, level)
        row["chance"] = chance[key]
        rows.append(row | unit_difference(values, base, weights, level, None if name == baseline else generator))
    summary = pd.DataFrame(rows)
    corrected = summary.groupby(["task", "metric"], sort=False)["p"].transform(lambda p: holm(p.to_numpy()))
    return summary.assign(p_corrected=corrected)
