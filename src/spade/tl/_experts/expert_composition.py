"""Which experts a region, organ or patient is made of."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from spade import _keys
from spade._checks import log_left_out
from spade._samples.experts import by_number, iter_experts, need_experts
from spade._samples.obs import group_labels, read_labels
from spade._samples.open import Samples
from spade.core.checks import check_count
from spade.core.evaluation.composition import composition
from spade.core.rng import as_seed, numpy_stream

logger = logging.getLogger("spade")


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
    """Count the experts within every value of a column, against their shares overall.

    The expected share of an expert is its share of all spots, of all samples and values together: what each value would have if the
    column and the experts had nothing to do with each other. Intervals come from drawing whole sections (or patients) with
    replacement, never spots, which are no independent replicates.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these.
    by
        ``obs`` column of categories, such as a region, an organ or a patient.
    key
        Stem of the keys that :func:`embed` or :func:`cluster_experts` wrote.
    unit
        ``obs`` column of what is drawn, such as ``"patient"`` where patients have several sections; None: sections.
    n_boot
        Draws.
    rng
        Seed.
    table_key
        Table; may be left out when there is one.

    Returns
    -------
    DataFrame
        One row per value and expert that has any spot. Columns: ``by``, the name of the column; ``value``; ``expert``; ``n``, spots of the
        value with this expert; ``n_value``, its spots with any; ``n_units`` that it occurs in; ``share`` (n / n_value) with
        ``share_low`` and ``share_high``; ``expected`` share; ``log2_enrichment`` with ``log2_low`` and ``log2_high``. Bounds are
        those of 95 % intervals (percentiles of the draws), and NaN where the value occurs in one unit only.

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
    Enrichment is log2 of (n + ½) / (n_value · expected + ½), so that an absent expert counts by how many spots of it were to be
    expected. Percentiles of few units are too narrow: with fewer than about ten, read an interval as the least one should allow for.
    Spots without an expert or a value are left out, and logged.

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
    seed = as_seed(rng)
    parts = []
    order: dict[str, None] = {}
    for sample, experts in iter_experts(samples, key, table_key):
        values, known = read_labels(sample, by, "by")
        order.update(dict.fromkeys(known))
        parts.append(
            pd.DataFrame(
                {
                    "unit": group_labels(sample, unit, "unit").astype(object),
                    "value": values,
                    "expert": experts,
                }
            )
        )
    spots = pd.concat(parts, ignore_index=True)
    without_expert, without_value = spots["expert"] == "", spots["value"] == ""
    need_experts(spots["expert"].to_numpy(dtype=object), key)
    used = spots[~without_expert & ~without_value]
    if used.empty:
        raise ValueError(f"by={by!r}: no spot has both a value and an expert ({len(spots)} spots). Fill the column in.")
    log_left_out(
        "expert_composition",
        len(spots),
        {
            "without expert": int(without_expert.sum()),
            "without value": int((without_value & ~without_expert).sum()),
        },
    )
    present = set(used["value"])
    levels = [
        sorted(set(used["unit"])),
        [value for value in order if value in present],
        by_number(used["expert"].to_numpy(dtype=object)),
    ]
    codes = [
        pd.Categorical(used[column], categories=level).codes
        for column, level in zip(("unit", "value", "expert"), levels, strict=True)
    ]
    counts = np.zeros([len(level) for level in levels], dtype=np.int64)
    np.add.at(counts, tuple(codes), 1)
    found = composition(counts, n_boot, numpy_stream(seed, "composition"))
    n_units = (counts.sum(2) > 0).sum(0)
    if (n_units == 1).any():
        alone = [value for value, n in zip(levels[1], n_units, strict=True) if n == 1]
        logger.info("expert_composition: no interval for values of one %s: %s", unit or "section", ", ".join(alone))
    n_experts = len(levels[2])
    return pd.DataFrame(
        {
            "by": by,
            "value": np.repeat(np.array(levels[1], dtype=object), n_experts),
            "expert": np.tile(np.array(levels[2], dtype=object), len(levels[1])),
            "n": counts.sum(0).ravel(),
            "n_value": np.repeat(counts.sum((0, 2)), n_experts),
            "n_units": np.repeat(n_units, n_experts),
            "share": found.share.ravel(),
            "share_low": found.share_bounds[0].ravel(),
            "share_high": found.share_bounds[1].ravel(),
            "expected": found.expected.ravel(),
            "log2_enrichment": found.enrichment.ravel(),
            "log2_low": found.enrichment_bounds[0].ravel(),
            "log2_high": found.enrichment_bounds[1].ravel(),
        }
    )
