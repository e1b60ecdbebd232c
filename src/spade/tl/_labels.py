"""Experts and labels of the spots of several samples, and an account of the spots that lack them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from spade._experts import expert_series
from spade._samples import Sample, Samples, category_strings, check_names, iter_samples, obs_column

logger = logging.getLogger("spade")


def iter_experts(samples: Samples, key: str, table_key: str | None) -> Iterator[tuple[Sample, NDArray[np.object_]]]:
    """Yield every sample with the expert of each spot as a string, ``""`` where it has none; samples must be named apart."""
    columns: dict[str, str] = {}
    for sample in iter_samples(samples, table_key=table_key):
        check_names([*columns, sample.name])
        series = expert_series(sample, key)
        columns[sample.name] = str(series.name)
        if len(set(columns.values())) > 1:
            first = next(iter(columns))
            raise ValueError(
                f"key={key!r}: {first} has obs[{columns[first]!r}], but {sample.name} has obs[{series.name!r}]. Run sp.tl.embed on all "
                "samples or on none."
            )
        yield sample, np.where(series.isna(), "", series.astype(str)).astype(object)


def read_labels(sample: Sample, key: str, argument: str) -> tuple[NDArray[np.object_], list[str]]:
    """Return the category of every spot as a string (``""`` where it is missing), and the categories in order."""
    return category_strings(obs_column(sample, key, argument), f"{sample.name}: {argument}={key!r}")


def by_number(experts: NDArray[np.object_]) -> list[str]:
    """Return the experts that occur, in the order of their numbers."""
    return sorted(set(experts.tolist()) - {""}, key=int)


def need_experts(experts: NDArray[np.object_], key: str) -> None:
    """Raise if no spot has an expert."""
    if not (experts != "").any():
        raise ValueError(
            f"key={key!r}: none of {len(experts)} spots has an expert, as no patch is valid. Check sp.pl.patches(samples)."
        )
