"""Experts and labels of the spots of several samples, and an account of the spots that lack them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade._experts import expert_series
from spade._samples import Sample, Samples, check_names, iter_samples, obs_column, shorten

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
    column = obs_column(sample, key, argument)
    if isinstance(column.dtype, pd.CategoricalDtype):
        order = [str(name) for name in column.cat.categories]
    else:
        if pd.api.types.is_float_dtype(column.dtype):
            known = column.dropna()
            if not np.array_equal(known, np.round(known)):
                raise TypeError(
                    f"{sample.name}: {argument}={key!r} is a column of numbers such as {shorten(known, 2)}; expected categories. "
                    "Cut it into ranges first, as with pandas.cut."
                )
            column = column.astype("Int64")
        order = [str(name) for name in sorted(column.dropna().unique())]
    return np.where(column.isna(), "", column.astype(str)).astype(object), order


def by_number(experts: NDArray[np.object_]) -> list[str]:
    """Return the experts that occur, in the order of their numbers."""
    return sorted(set(experts.tolist()) - {""}, key=int)


def need_experts(experts: NDArray[np.object_], key: str) -> None:
    """Raise if no spot has an expert."""
    if not (experts != "").any():
        raise ValueError(
            f"key={key!r}: none of {len(experts)} spots has an expert, as no patch is valid. Check sp.pl.patches(samples)."
        )


def log_left_out(function: str, total: int, counts: dict[str, int]) -> None:
    """Log how many of ``total`` spots are left out for which reason, if any are."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    if reasons:
        logger.info("%s: of %d spots are left out: %s", function, total, reasons)
