"""Results of switchboards, summarised over units: what ``tl.switchboard_summary`` returns and ``pl.switchboard`` draws."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spade._checks import check_table, shorten
from spade.core.evaluation.intervals import bootstrap_weights, holm
from spade.core.evaluation.units import unit_difference, unit_mean
from spade.core.rng import as_seed, numpy_stream

#: What tells the figures of one variant from each other.
FIGURE = ["task", "metric", "by", "direction", "shots"]
COLUMNS = ["variant", "fold", "seed", "unit", "group", *FIGURE, "value", "chance"]
PROBE = "probe"


def check_switchboard(table: object) -> pd.DataFrame:
    """Return the table, or raise if it is no result of ``tl.switchboard``."""
    found = check_table(table, COLUMNS, "sp.tl.switchboard")
    if found.duplicated(COLUMNS[:-2]).any():
        raise ValueError(
            "table: rows of the same variant, seed, unit and figure occur more than once, as when two tables are put together. "
            "Summarise them one by one, or give the variants other names."
        )
    return found


def summarise(
    table: pd.DataFrame, baseline: str, over: str, n_boot: int, level: float, rng: int | np.random.Generator
) -> pd.DataFrame:
    """As :func:`spade.tl.switchboard_summary`."""
    table = check_switchboard(table)
    names = list(dict.fromkeys(table["variant"]))
    if baseline not in names:
        raise KeyError(f"baseline={baseline!r} is not in the table; variants: {shorten(names, 20)}.")
    if over not in ("group", "unit"):
        raise ValueError(f'over={over!r}: expected "group" or "unit".')
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}: expected a number between 0 and 1.")
    keys = [*FIGURE, "variant"]
    sections = table.groupby([*keys, "group", "unit"], sort=False)[["value", "chance"]].mean()
    found = sections.groupby([*keys, over], sort=False).mean()
    units = found["value"].unstack(over).sort_index(axis=1)
    chance = found["chance"].groupby(keys, sort=False).mean()
    generator = numpy_stream(as_seed(rng), "bootstrap of units")
    weights = bootstrap_weights(units.shape[1], n_boot, generator)
    rows = []
    for key in chance.index:
        *figure, name = key
        of_baseline = (*figure, baseline)
        if of_baseline not in units.index:  # frozen features have no head and no space of their own
            of_baseline = (*figure[:2], PROBE, *figure[3:], baseline)
        values, base = units.loc[key].to_numpy(), units.loc[of_baseline].to_numpy()
        row = {"variant": name} | dict(zip(FIGURE, figure, strict=True)) | unit_mean(values, weights, level)
        row["chance"] = chance[key]
        rows.append(row | unit_difference(values, base, weights, level, None if name == baseline else generator))
    summary = pd.DataFrame(rows)
    corrected = summary.groupby(["task", "metric"], sort=False)["p"].transform(lambda p: holm(p.to_numpy()))
    return summary.assign(p_corrected=corrected)
