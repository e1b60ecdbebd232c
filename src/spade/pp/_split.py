"""Splits that do not leak: by patient, by section, or by spatial blocks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade import _keys
from spade._checks import plural
from spade._said.lines import speaks, wrote
from spade._samples.obs import group_labels
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.patches import patch_record, placed_patches
from spade._samples.sample import Sample, check_names
from spade.core.arrays import Floats
from spade.core.checks import brief, check_not_negative, check_positive, check_text, is_number
from spade.core.rng import as_seed, numpy_stream
from spade.core.spots.blocks import guard_band, too_near

logger = logging.getLogger("spade")
PARTS = (_keys.TRAIN, _keys.VAL, _keys.TEST)


@dataclass(frozen=True)
class Blocks:
    """Spatial blocks: their side and the guard band (None: chosen per section) in µm, and the key of the patches."""

    side: float
    guard: float | None
    patches_key: str


@speaks
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
    """Split spots into training, validation and test without leaks.

    A whole group (patient or section) goes to one part. With ``block_um`` each section is cut into square blocks
    instead, and spots near those of another part become a guard band that belongs to no part, because patches of
    neighbouring spots overlap and their expression is similar. Spots of other sections on the same image count too.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    groupby
        ``obs`` column whose values stay together, such as ``"patient"``; None: the section. Not used with ``block_um``.
    fractions
        Desired shares of spots in training, validation and test; they sum to 1, and a share may be 0.
    block_um
        Side of the spatial blocks in µm; it needs patches (:func:`patches`), which hold the positions in µm.
    guard_um
        A training spot closer than this, along both x and y, to a validation or test spot goes to the guard band, and
        so does a validation spot this close to a test spot. None: the side of a patch or twice the distance between
        neighbouring spots of the section, whichever is larger, so that no two parts see the same tissue or hold spots
        that are neighbours, whose expression is alike. The log says how wide it is and how many spots are in it. Only
        with ``block_um``.
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
    shares = _check_fractions(fractions)
    key = _keys.split(_keys.check_key(key_added))
    if groupby is not None:
        check_text("groupby", groupby)
        if groupby == key and block_um is None:
            raise ValueError(
                f"key_added={key_added!r} would replace obs[{key!r}], which groupby= reads; choose another."
            )
    blocks = _blocks(block_um, guard_um, patches_key)
    samples = as_list(samples, writes=True)
    seed = as_seed(rng)
    generator = numpy_stream(seed, "split")
    if blocks is None:
        parts_of_samples = _by_group(samples, groupby, shares, table_key, generator)
    else:
        parts_of_samples = [
            _by_block(sample, blocks, shares, generator) for sample in iter_samples(samples, table_key=table_key)
        ]
    for sample, parts in zip(iter_samples(samples, table_key=table_key, writes=True), parts_of_samples, strict=True):
        sample.table.obs[key] = pd.Categorical(parts, categories=[*PARTS, _keys.GUARD])
        _keys.write_provenance(
            sample.table.uns,
            key,
            function="pp.split",
            groupby=groupby if blocks is None else None,
            block_um=block_um,
            guard_um=guard_um,
            patches_key=None if blocks is None else blocks.patches_key,
            **dict(zip(PARTS, shares.tolist(), strict=True)),
            seed=seed,
        )
        sample.save()
        counts = pd.Series(parts).value_counts()
        wrote(sample.name, f"obs[{key!r}]", detail=", ".join(f"{n:,} {part}" for part, n in counts.items()))


def _check_fractions(fractions: object) -> Floats:
    """Return the shares of the three parts, or raise."""
    shares: list[Any] = list(fractions) if isinstance(fractions, Iterable) else [fractions]
    if len(shares) != 3 or not all(map(is_number, shares)) or min(shares) < 0 or not np.isclose(sum(shares), 1):
        raise ValueError(f"fractions={brief(fractions)}: expected three shares of at least 0 that sum to 1.")
    return np.array(shares, dtype=float)


def _blocks(block_um: object, guard_um: object, patches_key: str) -> Blocks | None:
    """Return the spatial blocks, None to split by group."""
    if block_um is None:
        if guard_um is not None:
            raise ValueError(f"guard_um={guard_um!r} is not used without block_um=; leave it out, or set block_um=.")
        return None
    guard = None if guard_um is None else check_not_negative("guard_um", guard_um, "µm")
    return Blocks(check_positive("block_um", block_um, "µm"), guard, patches_key)


def _deal(
    names: NDArray[np.str_], shares: Floats, rng: np.random.Generator, what: str, of: str = ""
) -> NDArray[np.str_]:
    """Return the part of every row, by its group.

    Groups are dealt in random order, each to the part that lacks most spots; no part with a share stays empty.
    """
    groups, group_of_row, sizes = np.unique(names, return_inverse=True, return_counts=True)
    wanted = [i for i in range(3) if shares[i] > 0]
    if len(groups) < len(wanted):
        raise ValueError(
            f"{plural(len(groups), what)}{of} cannot fill {len(wanted)} parts (fractions={tuple(shares.tolist())}): "
            f"{', '.join(groups)}. Set a fraction to 0, choose another groupby=, or cut the sections into spatial "
            "blocks with block_um=."
        )
    filled = np.zeros(3)
    part_of_group = np.zeros(len(groups), dtype=np.int64)
    for position, group in enumerate(rng.permutation(len(groups))):
        empty = [i for i in wanted if filled[i] == 0]
        # once there are only as many groups left as empty parts, each of these parts gets one
        candidates = empty if len(groups) - position <= len(empty) else wanted
        lack = shares * len(names) - filled
        best = max(candidates, key=lambda i: lack[i])
        part_of_group[group] = best
        filled[best] += sizes[group]
    return np.array(PARTS)[part_of_group][group_of_row]


def _by_group(
    samples: Samples, groupby: str | None, shares: Floats, table_key: str | None, rng: np.random.Generator
) -> list[NDArray[np.str_]]:
    """Return the part of every row of every sample; groups stay whole."""
    labels = []
    sections: list[str] = []
    for sample in iter_samples(samples, table_key=table_key):
        labels.append(group_labels(sample, groupby))
        sections += [section.name for section in sample.sections]
    if groupby is None:
        check_names(sections, "sections")
    what = ("section",) if groupby is None else ("group", f" of obs[{groupby!r}]")
    parts = _deal(np.concatenate(labels), shares, rng, *what)
    return np.split(parts, np.cumsum([len(label) for label in labels])[:-1])


def _by_block(sample: Sample, blocks: Blocks, shares: Floats, rng: np.random.Generator) -> NDArray[np.str_]:
    """Return the part of every row of a sample; each section is cut into blocks by itself.

    Sections on one image may be neighbours, so the guard band of each heeds the spots of all.
    """
    record = patch_record(sample, blocks.patches_key)
    placed = [placed_patches(sample, section, record) for section in sample.sections]
    dealt = [_deal(_block_names(where.points, blocks.side), shares, rng, "block") for where in placed]
    parts = np.full(sample.table.n_obs, _keys.GUARD, dtype="U5")
    for section, where, own in zip(sample.sections, placed, dealt, strict=True):
        guard = guard_band(where.points, record["size_um"]) if blocks.guard is None else blocks.guard
        beside = [i for i, other in enumerate(placed) if other.image_key == where.image_key]
        points = np.concatenate([placed[i].centres for i in beside]) * where.mpp
        parts[section.rows] = _with_guard(where.points, own, points, np.concatenate([dealt[i] for i in beside]), guard)
        present = set(parts[section.rows].tolist())
        if empty := [part for part, share in zip(PARTS, shares, strict=True) if share > 0 and part not in present]:
            raise ValueError(
                f"{section.name}: with blocks of {blocks.side:g} µm and a guard band of {guard:g} µm no spot is left "
                f"for {', '.join(empty)}. Use larger blocks or a narrower guard_um=."
            )
        n_guard, n_spots = int((parts[section.rows] == _keys.GUARD).sum()), len(section.rows)
        logger.info("%s: a guard band of %.4g µm holds %d of %d spots", section.name, guard, n_guard, n_spots)
    return parts


def _block_names(points: Floats, side: float) -> NDArray[np.str_]:
    """Return the name of the square block of every spot of a section."""
    cells = np.floor((points - points.min(0)) / side).astype(int)
    return np.array([f"{column}x{row}" for column, row in cells])


def _with_guard(
    points: Floats, parts: NDArray[np.str_], others: Floats, their_parts: NDArray[np.str_], guard: float
) -> NDArray[np.str_]:
    """Move spots closer than ``guard`` to another of a later part (train < val < test) into the guard band."""
    guarded = parts.copy()
    for position, part in enumerate(PARTS[:2]):
        own, later = parts == part, np.isin(their_parts, PARTS[position + 1 :])
        guarded[np.flatnonzero(own)[too_near(points[own], others[later], guard)]] = _keys.GUARD
    return guarded
