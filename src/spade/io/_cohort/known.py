"""What is known of single samples of HEST-1k beyond its table: benchmarks, duplicates, wrong scales."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import pandas as pd

#: The list, with the source of every fact.
NAME = "hest_samples.csv"
#: Facts: the sample is in a task of HEST-Bench; it shows the section of another sample; its µm/px or the distance of
#: its spots is wrong; the patient is another than the table says.
HEST_BENCH, DUPLICATE, SCALE, PATIENT = "hest_bench", "duplicate", "scale", "patient"


@cache
def known_samples() -> pd.DataFrame:
    """Return the list: ``id``, ``fact``, ``value`` (task, other sample or patient), ``source`` and ``note``."""
    with files(__package__).joinpath(NAME).open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype=str, keep_default_na=False)


def known(fact: str) -> dict[str, str]:
    """Return the samples of which a fact is known, and its value."""
    table = known_samples()
    rows = table[table["fact"] == fact]
    return dict(zip(rows["id"], rows["value"], strict=True))
