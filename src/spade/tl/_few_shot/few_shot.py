"""Few-shot classification, measured without leaks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from spade import _keys
from spade._checks import shorten
from spade._samples.features import Representation, named_representations, support_scale
from spade._samples.open import Samples, as_list
from spade.core.arrays import Floats
from spade.core.checks import check_count
from spade.core.errors import warn
from spade.core.evaluation.episodes import Episode, anywhere, between_blocks, between_groups
from spade.core.rng import as_seed, numpy_stream
from spade.tl._few_shot.probes import Probe
from spade.tl._few_shot.rows import LabelledRows, guard_width, read_rows
from spade.tl._few_shot.scores import scores, store_table

logger = logging.getLogger("spade")


def few_shot(
    samples: Samples,
    *,
    label_key: str,
    use_rep: Representation | Sequence[Representation] | Mapping[str, Representation],
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    n_repeats: int = 20,
    classifier: str = "linear",
    C: float | str = "paper",
    n_neighbors: int = 5,
    groupby: str | None = None,
    n_support_groups: int | None = None,
    block_um: float | None = None,
    guard_um: float | None = None,
    scaling: str = "section",
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str = "few_shot",
) -> pd.DataFrame:
    """Measure how well a few labelled spots per class tell the classes of others.

    A draw picks the same spots for every representation; those of more shots contain those of fewer. Where they come from:

    - ``groupby``: from some patients (or sections), dealt in turn; all others are the query. What a new patient will see.
    - ``block_um``: within each section by itself, from half of its square blocks; spots that are near the query are left out.
    - neither: anywhere within each section by itself; the rest is the query. Neighbours of labelled spots are then among the
      query, which is right for filling in a section and flatters anything that memorises places.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these.
    label_key
        ``obs`` column of the classes; spots without a value are not used.
    use_rep
        ``obsm`` key of a representation; a tuple of keys is put side by side; a list of these compares several; a dict names them.
        Spots that lack one of them are not used for any.
    shots
        Labelled spots per class.
    n_repeats
        Draws.
    classifier
        ``"linear"``: logistic regression. ``"centroid"``: nearest class mean of centred rows of length 1 (SimpleShot). ``"knn"``:
        the nearest rows, weighted by inverse distance.
    C
        Inverse strength of the L2 penalty of ``"linear"``: a number; ``"paper"``: width × number of classes / 100; ``"cv"``: chosen
        within the support by cross-validation (with one shot, where there is nothing to validate on, as ``"paper"``).
    n_neighbors
        Of ``"knn"``; all, where there are fewer labelled spots.
    groupby
        ``obs`` column of what must not be in support and query at once, such as ``"patient"``.
    n_support_groups
        Number of groups that the support comes from; None: half of them, rounded down.
    block_um
        Side of the blocks in µm; the sections need patches (:func:`spade.pp.patches`).
    guard_um
        Labelled spots closer than this to a query spot are left out; None: the side of a patch and, with representations of
        :func:`spade.pp.spatial_context`, twice their radius. A model that was trained on such has the same reach.
    scaling
        Features get mean 0 and deviation 1 over each ``"section"`` (no label is read for it, but the whole section is), or over the
        labelled spots (``"support"``); ``"none"``: as they are.
    patches_key
        What :func:`spade.pp.patches` wrote; read only with ``block_um``.
    table_key
        Table; may be left out when there is one.
    rng
        Seed of the draws.
    key_added
        ``uns`` key.

    Returns
    -------
    DataFrame
        One row per ``representation``, ``classifier``, ``shots``, ``repeat``, ``unit`` (section, or group of the query) and ``metric``:
        ``value`` of ``"balanced_accuracy"``, ``"macro_auroc"``, ``"macro_f1"`` and, per ``label``, ``"recall"``, beside ``n_query`` and the
        ``n_classes`` told apart. Only classes that the unit has count; AUROC is NaN where it has one. For a single ``SpatialData`` (or path) also written to ``uns["few_shot"]``.
        :func:`few_shot_summary` makes means, intervals and paired comparisons of it.

    Raises
    ------
    KeyError
        No such column, representation or patches.
    ValueError
        One class only, a class with too few spots for the shots, groups or blocks that cannot be parted.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> table = sp.tl.few_shot(samples, label_key="domain", use_rep="X_texture", shots=(1, 4), n_repeats=3, groupby="patient")
    >>> sp.tl.few_shot_summary(table)[["representation", "shots", "n_units"]].values.tolist()
    [['X_texture', 1, 2], ['X_texture', 4, 2]]
    """
    named = named_representations(use_rep)
    wanted = _check_shots(shots)
    check_count("n_repeats", n_repeats)
    _keys.check_uns_key(key_added)
    probe = Probe(classifier, C, n_neighbors)
    if groupby is not None and block_um is not None:
        raise ValueError("groupby= and block_um= are two ways to part support and query: choose one.")
    for name, value, needs in (("guard_um", guard_um, block_um), ("n_support_groups", n_support_groups, groupby)):
        if value is not None and needs is None:
            raise ValueError(
                f"{name}={value!r} has no meaning without {'block_um' if name == 'guard_um' else 'groupby'}=."
            )
    if block_um is not None and not block_um > 0:
        raise ValueError(f"block_um={block_um!r}: expected a positive number of µm.")
    if guard_um is not None and not guard_um >= 0:
        raise ValueError(f"guard_um={guard_um!r}: expected a number of µm of at least 0.")
    listed = as_list(samples)
    rows = read_rows(listed, label_key, named, scaling, groupby, None if block_um is None else patches_key, table_key)
    seed = as_seed(rng)
    guard = (
        0.0
        if block_um is None
        else guard_width(listed, named, patches_key, table_key)
        if guard_um is None
        else guard_um
    )
    if groupby is not None:
        episodes = _of_groups(rows, groupby, n_support_groups, wanted[-1], n_repeats, seed)
    else:
        episodes = _of_sections(rows, block_um, guard, wanted[-1], n_repeats, seed)
    found: list[dict[str, Any]] = []
    unit_of = rows.section if groupby is None else rows.group
    with tqdm(total=len(episodes) * len(wanted) * len(named), desc="few-shot", unit="fit") as bar:
        for repeat, episode in episodes:
            for k in wanted:
                support, query = episode.shots(k)
                for name, x in rows.x.items():
                    probabilities = _predict(probe, x, rows.y, support, query, scaling, seed)
                    for unit in np.unique(unit_of[query]):
                        own = unit_of[query] == unit
                        facts = {
                            "representation": name,
                            "classifier": classifier,
                            "shots": k,
                            "repeat": repeat,
                            "unit": unit,
                        }
                        found += [facts | one for one in scores(rows.y[query[own]], probabilities[own], rows.classes)]
                    bar.update()
    table = pd.DataFrame(found).assign(n_classes=len(rows.classes))
    table.index = table.index.astype(str)
    _warn_of_gaps(table, rows, None if groupby is None else set(rows.group[rows.y >= 0].tolist()))
    if len(listed) == 1:
        store_table(listed[0], table, key_added, table_key, function="tl.few_shot", label_key=label_key, seed=seed)
    return table


def _check_shots(shots: Sequence[int]) -> list[int]:
    wanted = [shots] if isinstance(shots, (int, np.integer)) else list(shots)
    if not wanted or any(isinstance(k, bool) or k != int(k) or k < 1 for k in wanted):
        raise ValueError(f"shots={shots!r}: expected whole numbers of at least 1.")
    return sorted({int(k) for k in wanted})


def _of_sections(
    rows: LabelledRows, block_um: float | None, guard: float, most: int, n_repeats: int, seed: int
) -> list[tuple[int, Episode]]:
    """Draw within each section by itself."""
    found = []
    for section in np.unique(rows.section):
        own = np.flatnonzero((rows.section == section) & (rows.y >= 0))
        if not len(own):
            logger.info("%s: no spot has a label, passed over", section)
            continue
        there = np.bincount(rows.y[own], minlength=len(rows.classes))
        few = [f"{rows.classes[k]!r} has {there[k]}" for k in range(len(there)) if there[k] <= most]
        if few:
            raise ValueError(
                f"{section}: {', '.join(few)} labelled spots, but {most} shots and a query take at least {most + 1} of every class. Lower "
                "shots=, leave the class without labels, or draw from several sections at once with groupby=."
            )
        for repeat in range(n_repeats):
            generator = numpy_stream(seed, f"few-shot {section}", repeat)
            if block_um is None:
                episode: Episode | None = anywhere(own, rows.y, len(rows.classes), generator)
            else:
                points = np.asarray(rows.points)[own]
                episode = between_blocks(
                    own, points, block_um, guard, y=rows.y, n_classes=len(rows.classes), max_shots=most, rng=generator
                )
            if episode is None:
                raise ValueError(
                    f"{section}: no draw of blocks of {block_um:g} µm with a guard band of {guard:g} µm leaves {most} labelled spots of "
                    f"every class ({_listed(rows.classes, there)}) in one half. Lower shots=, or change block_um= or guard_um=."
                )
            found.append((repeat, episode))
    return sorted(found, key=lambda one: one[0])


def _of_groups(
    rows: LabelledRows, groupby: str, n_support: int | None, most: int, n_repeats: int, seed: int
) -> list[tuple[int, Episode]]:
    """Draw support and query from different groups."""
    names, number = np.unique(rows.group, return_inverse=True)
    own = np.flatnonzero(rows.y >= 0)
    n = len(np.unique(number[own]))
    if n < 2:
        raise ValueError(
            f"groupby={groupby!r}: all labelled spots are of {str(names[number[own[0]]])!r}, so support and query cannot be of different "
            "groups. Add others, or part the section itself with block_um=."
        )
    n_support = n // 2 if n_support is None else n_support
    if isinstance(n_support, bool) or n_support != int(n_support) or not 1 <= n_support < n:
        raise ValueError(
            f"n_support_groups={n_support!r}: expected a whole number from 1 to {n - 1}, of {n} groups with labels."
        )
    generator = numpy_stream(seed, "few-shot")
    drawn = between_groups(number[own], int(n_support), rows.y[own], len(rows.classes), most, generator)
    found = list(enumerate(islice(drawn, n_repeats)))
    if len(found) < n_repeats:
        there = np.bincount(rows.y[own], minlength=len(rows.classes))
        raise ValueError(
            f"groupby={groupby!r}: no draw of {n_support} of {n} groups has {most} labelled spots of every class "
            f"({_listed(rows.classes, there)} in all groups). Lower shots=, or raise n_support_groups=."
        )
    return [(repeat, Episode([own[one] for one in episode.support], own[episode.query])) for repeat, episode in found]


def _warn_of_gaps(table: pd.DataFrame, rows: LabelledRows, groups: set[str] | None) -> None:
    """Say which classes and groups are never asked for, as where one group alone has a class."""
    never = sorted(set(rows.classes) - set(table.loc[table["metric"] == "recall", "label"]))
    silent = sorted((groups or set()) - set(table["unit"]))
    if never or silent:
        parts = [f"{what} {shorten(names)}" for what, names in (("classes", never), ("groups", silent)) if names]
        warn(
            f"{' and '.join(parts)} are never in the query, so no figure says how well they are told apart: too few groups have all "
            "classes that a support needs."
        )


def _listed(classes: list[str], counts: NDArray[np.integer]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in zip(classes, counts, strict=True))


def _predict(
    probe: Probe, x: NDArray[np.float32], y: NDArray[np.int64], support: Any, query: Any, scaling: str, seed: int
) -> Floats:
    """Probabilities of the query's classes, learnt from the support."""
    mean, deviation = support_scale(x[support], scaling)
    return probe.fit((x[support] - mean) / deviation, y[support], seed)((x[query] - mean) / deviation)
