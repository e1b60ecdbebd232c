"""Columns of a sample sheet in ``obs``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from spade._checks import shorten
from spade._samples.obs import value_strings
from spade._samples.sample import Sample


def add_columns(sample: Sample, columns: Mapping[str, Any]) -> None:
    """Write what a sample sheet says of a sample into ``obs`` of its table in memory.

    A column that is there already, and not empty, is left as it is; one that says something else raises.
    """
    obs = sample.table.obs
    for name, value in columns.items():
        wanted = value_strings(pd.Series([value], dtype=object))[0]
        if name in obs:
            there = set(value_strings(obs[name])) - {""}
            if wanted and there - {wanted}:
                raise ValueError(
                    f"{sample.name}: the sample sheet says {name}={wanted!r}, but obs[{name!r}] of its table has "
                    f"{shorten(sorted(there), 3)}. Correct one of them, or rename the column of the sheet."
                )
            if there or not wanted:
                continue
        obs[name] = (
            pd.Categorical([value or None] * len(obs), categories=[value] if value else [])
            if isinstance(value, str)
            else value
        )
