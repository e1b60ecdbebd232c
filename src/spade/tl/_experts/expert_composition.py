"""The experts in each region, organ or patient."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from spade import _keys
from spade._checks import log_left_out
from spade._said.lines import speaks
from spade._samples.experts import by_number, iter_experts, need_experts
from spade._samples.obs import group_labels, read_labels
from spade._samples.open import Samples
from spade.core.checks import check_count, check_text
from spade.core.evaluation.composition import composition
from spade.core.rng import as_seed, numpy_stream

logger = logging.getLogger("spade")


@speaks
def expert_composition(
    samples: Samples,
    *,
    by: str,
    key: str = _keys.STEM,
    unit: str | None = None,
    n_boot: int = 2000,
    rng: int | np.random.Generator = 0,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Count the experts within every value of a column, and compare with their shares overall.

    The expected share of an expert is its share of all spots, over all samples and values: the share that every value
    would have if the column and the experts were independent. Intervals come from resampling whole sections (or
    patients), not spots, which are not independent replicates.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    by
        ``obs`` column of categories, such as a region, an organ or a patient.
    key
        Stem of the keys that :func:`embed` or :func:`cluster_experts` wrote.
    unit
        ``obs`` column of the units to resample, such as ``"patient"`` if patients have several sections; None:
        sections.
    n_boot
        Bootstrap samples of the units.
    rng
        Seed.
    table_key
        Table; may be left out when there is one.

    Returns
    -------
    DataFrame
        One row per value and expert that has any spot. Columns: ``by``, the name of the column; ``value``; ``expert``;
        ``n``, spots of the value with this expert; ``n_value``, spots of the value with any expert; ``n_units`` that
        the value occurs in; ``share`` (n / n_value) with ``share_low`` and ``share_high``; ``expected`` share;
        ``log2_enrichment`` with ``log2_low`` and ``log2_high``. The bounds are those of 95 % bootstrap intervals
        (percentiles), and NaN where the value occurs in a single unit.

    Raises
    ------
    KeyError
        No experts or clusters with this ``key``, or no such column.
    TypeError
        ``by`` is a column of continuous numbers.
    ValueError
        No spot has both a value and an expert, or a spot lacks its ``unit``.

    Notes
    -----
    Enrichment is log2 of (n + ½) / (n_value · expected + ½), so that an absent expert counts by the number of spots
    that were expected of it. Percentile intervals of few units are too narrow: with fewer than about ten, read an
    interval as a lower limit of the uncertainty. Spots without an expert or a value are left out, which is logged.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(3, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> routing = sp.tl.cluster_experts(samples, use_rep="X_texture", n_prototypes=2, n_experts=2)
    >>> table = sp.tl.expert_composition(samples, by="domain", n_boot=100)
    >>> len(table)
    8
    >>> sorted(set(table.groupby("value")["share"].sum().round(6)))
    [1.0]
    """
    check_count("n_boot", n_boot)
    check_text("key", key)
    seed = as_seed(rng)
    used, order = _read(samples, by, key, unit, table_key)
    levels = {
        "unit": sorted(set(used["unit"])),
        "value": [value for value in order if value in set(used["value"])],
        "expert": by_number(used["expert"].to_numpy(dtype=object)),
    }
    codes = [pd.Categorical(used[column], categories=level).codes for column, level in levels.items()]
    counts = np.zeros([len(level) for level in levels.values()], dtype=np.int64)
    np.add.at(counts, tuple(codes), 1)
    n_units = (counts.sum(2) > 0).sum(0)
    if (n_units == 1).any():
        values = [value for value, n in zip(levels["value"], n_units, strict=True) if n == 1]
        logger.info("expert_composition: no interval for values of one %s: %s", unit or "section", ", ".join(values))
    result = composition(counts, n_boot, numpy_stream(seed, "composition"))
    n_experts = len(levels["expert"])
    return pd.DataFrame(
        {
            "by": by,
            "value": np.repeat(np.array(levels["value"], dtype=object), n_experts),
            "expert": np.tile(np.array(levels["expert"], dtype=object), len(levels["value"])),
            "n": counts.sum(0).ravel(),
            "n_value": np.repeat(counts.sum((0, 2)), n_experts),
            "n_units": np.repeat(n_units, n_experts),
            "share": result.share.ravel(),
            "share_low": result.share_bounds[0].ravel(),
            "share_high": result.share_bounds[1].ravel(),
            "expected": result.expected.ravel(),
            "log2_enrichment": result.enrichment.ravel(),
            "log2_low": result.enrichment_bounds[0].ravel(),
            "log2_high": result.enrichment_bounds[1].ravel(),
        }
    )


def _read(
    samples: Samples, by: str, key: str, unit: str | None, table_key: str | None
) -> tuple[pd.DataFrame, list[str]]:
    """Return unit, value and expert of the spots that have a value and an expert, and all values in order."""
    parts: list[pd.DataFrame] = []
    order: dict[str, None] = {}
    for sample, experts in iter_experts(samples, key, table_key):
        values, known = read_labels(sample, by, "by")
        order.update(dict.fromkeys(known))
        units = group_labels(sample, unit, "unit").astype(object)
        parts.append(pd.DataFrame({"unit": units, "value": values, "expert": experts}))
    spots = pd.concat(parts, ignore_index=True)
    without_expert, without_value = spots["expert"] == "", spots["value"] == ""
    need_experts(spots["expert"].to_numpy(dtype=object), key)
    used = spots[~without_expert & ~without_value]
    if used.empty:
        raise ValueError(f"by={by!r}: no spot has both a value and an expert ({len(spots)} spots). Fill the column in.")
    without = {
        "without expert": int(without_expert.sum()),
        "without value": int((without_value & ~without_expert).sum()),
    }
    log_left_out("expert_composition", len(spots), without)
    return used, list(order)
