"""Splits that do not leak: by patient, by section, or by spatial blocks."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade import _keys
from spade._samples.obs import group_labels
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.patches import patch_record, section_points
from spade._samples.sample import Sample, check_names
from spade.core.rng import as_seed, numpy_stream
from spade.core.spots.blocks import too_near

logger = logging.getLogger("spade")
PARTS = (_keys.TRAIN, _keys.VAL, _keys.TEST)


def split(
    samples: Samples,
    *,
    groupby: str | None = "patient",
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    block_um: float | None = None,
    guard_um: float | None = None,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str = _keys.STEM,
) -> None:
    """Deal spots into training, validation and test without leaks.

    Whole groups (patients, or sections) go to one part. With ``block_um`` each section is cut into square blocks instead,
    and spots near another part's spots become a guard band that belongs to none: patches of neighbouring spots overlap, and
    their expression is alike.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these.
    groupby
        ``obs`` column whose values stay together, such as ``"patient"``; None: the section. Not used with ``block_um``.
    fractions
        Wanted shares of spots in training, validation and test; they sum to 1, and a share may be 0.
    block_um
        Side of the spatial blocks in µm; the sections need patches (:func:`patches`), which know the µm/px.
    guard_um
        A training spot closer than this, along x as well as along y, to a validation or test spot, or a validation spot this
        close to a test spot, goes to the guard band. None: the side of a patch, so that no two parts see the same tissue.
    patches_key
        What :func:`patches` wrote; read only with ``block_um``.
    table_key
        Table; may be left out when there is one.
    rng
        Seed.
    key_added
        Stem of the key written.

    Returns
    -------
    None
        Writes ``obs["spade_split"]``: ``"train"``, ``"val"``, ``"test"`` or ``"guard"``.

    Raises
    ------
    ValueError
        Fewer groups than parts, fractions that do not sum to 1, or a part that would be empty.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(4, 30)
    >>> sp.pp.split(samples, groupby="patient", fractions=(0.5, 0.25, 0.25))
    >>> [s["table"].obs["spade_split"].unique().tolist() for s in samples].count(["train"])
    2
    """
    shares = np.asarray(fractions, dtype=float)
    if shares.shape != (3,) or (shares < 0).any() or not np.isclose(shares.sum(), 1):
        raise ValueError(f"fractions={tuple(fractions)!r}: expected three shares of at least 0 that sum to 1.")
    key = _keys.split(key_added)
    _keys.check_key(key)
    samples = as_list(samples)
    seed = as_seed(rng)
    generator = numpy_stream(seed, "split")
    if guard_um is not None and (block_um is None or not guard_um >= 0):
        raise ValueError(f"guard_um={guard_um!r}: expected a number of µm of at least 0, together with block_um=.")
    if block_um is None:
        dealt = _by_group(samples, groupby, shares, table_key, generator)
    else:
        if not block_um > 0:
            raise ValueError(f"block_um={block_um!r}: expected a positive number of µm.")
        dealt = _by_block(samples, block_um, guard_um, shares, patches_key, table_key, generator)
    for sample, parts in zip(iter_samples(samples, table_key=table_key), dealt, strict=True):
        sample.table.obs[key] = pd.Categorical(parts, categories=[*PARTS, _keys.GUARD])
        _keys.write_provenance(
            sample.table.uns,
            key,
            function="pp.split",
            groupby=groupby if block_um is None else None,
            block_um=block_um,
            guard_um=guard_um,
            **dict(zip(PARTS, shares.tolist(), strict=True)),
            seed=seed,
        )
        sample.save()
        logger.info("%s: wrote obs[%r]: %s", sample.name, key, pd.Series(parts).value_counts().to_dict())


def _deal(sizes: dict[str, int], shares: NDArray[np.float64], rng: np.random.Generator, what: str) -> dict[str, str]:
    """Deal groups to parts: in random order, each to the part that lacks most; no wanted part stays empty."""
    wanted = [i for i in range(3) if shares[i] > 0]
    if len(sizes) < len(wanted):
        raise ValueError(
            f"{len(sizes)} {what} cannot fill {len(wanted)} parts (fractions={tuple(shares.tolist())}): {', '.join(sizes)}. Set a "
            "fraction to 0, choose another groupby=, or cut the sections into spatial blocks with block_um=."
        )
    names = [list(sizes)[i] for i in rng.permutation(len(sizes))]
    total = sum(sizes.values())
    filled = np.zeros(3)
    dealt: dict[str, str] = {}
    for position, name in enumerate(names):
        empty = [i for i in wanted if filled[i] == 0]
        # once only as many groups are left as parts are empty, each of them gets one
        among = empty if len(names) - position <= len(empty) else wanted
        lack = shares * total - filled
        best = max(among, key=lambda i: lack[i])
        dealt[name] = PARTS[best]
        filled[best] += sizes[name]
    return dealt


def _by_group(
    samples: Samples, groupby: str | None, shares: NDArray[np.float64], table_key: str | None, rng: np.random.Generator
) -> list[NDArray[np.str_]]:
    labels = []
    sections: list[str] = []
    for sample in iter_samples(samples, table_key=table_key):
        labels.append(group_labels(sample, groupby))
        sections += [section.name for section in sample.sections]
    if groupby is None:
        check_names(sections, "sections")
    names, counts = np.unique(np.concatenate(labels), return_counts=True)
    what = "sections" if groupby is None else f"groups of obs[{groupby!r}]"
    dealt = _deal(dict(zip(names.tolist(), counts.tolist(), strict=True)), shares, rng, what)
    return [np.array([dealt[label] for label in one], dtype=str) for one in labels]


def _by_block(
    samples: Samples,
    block_um: float,
    guard_um: float | None,
    shares: NDArray[np.float64],
    patches_key: str,
    table_key: str | None,
    rng: np.random.Generator,
) -> list[NDArray[np.str_]]:
    return [
        _blocks_of_sample(sample, block_um, guard_um, shares, patches_key, rng)
        for sample in iter_samples(samples, table_key=table_key)
    ]


def _blocks_of_sample(
    sample: Sample,
    block_um: float,
    guard_um: float | None,
    shares: NDArray[np.float64],
    patches_key: str,
    rng: np.random.Generator,
) -> NDArray[np.str_]:
    record = patch_record(sample, patches_key)
    guard = record["size_um"] if guard_um is None else guard_um
    parts = np.full(sample.table.n_obs, _keys.GUARD, dtype="U5")
    for section in sample.sections:
        points = section_points(sample, section, record)
        cells = np.floor((points - points.min(0)) / block_um).astype(int)
        blocks = np.array([f"{column}x{row}" for column, row in cells])
        names, counts = np.unique(blocks, return_counts=True)
        dealt = _deal(dict(zip(names.tolist(), counts.tolist(), strict=True)), shares, rng, "blocks")
        dealt_rows = np.array([dealt[block] for block in blocks], dtype="U5")
        parts[section.rows] = _with_guard(points, dealt_rows, guard)
        empty = [
            part for part, share in zip(PARTS, shares, strict=True) if share > 0 and part not in parts[section.rows]
        ]
        if empty:
            raise ValueError(
                f"{section.name}: with blocks of {block_um:g} µm and a guard band of {guard:g} µm no spot is left for {empty}. Use "
                "larger blocks or a narrower guard_um=."
            )
    return parts


def _with_guard(points: NDArray[np.float64], parts: NDArray[np.str_], guard: float) -> NDArray[np.str_]:
    """Move spots closer than ``guard`` to a spot of a later part (train < val < test) into the guard band."""
    out = parts.copy()
    for position, part in enumerate(PARTS[:2]):
        here, later = parts == part, np.isin(parts, PARTS[position + 1 :])
        out[np.flatnonzero(here)[too_near(points[here], points[later], guard)]] = _keys.GUARD
    return out
