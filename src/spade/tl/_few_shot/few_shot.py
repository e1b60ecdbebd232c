"""Few-shot classification, measured without leaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from spade import _keys
from spade._checks import check_counts, shorten
from spade._said.lines import speaks
from spade._samples.features import Representation, check_weights, named_representations, support_scale
from spade._samples.open import Samples, as_list
from spade.core.arrays import Floats, Rows
from spade.core.checks import brief, check_count, check_flag, check_not_negative, check_positive
from spade.core.errors import warn
from spade.core.evaluation.episodes import Episode
from spade.core.rng import as_seed
from spade.tl._few_shot.draws import draw_between_groups, draw_most, draw_within_sections
from spade.tl._few_shot.probes import Probe, check_paper
from spade.tl._few_shot.rows import LabelledRows, guard_width, read_rows
from spade.tl._few_shot.scores import RECALL, Row, scores, store_table


@speaks
def few_shot(
    samples: Samples,
    *,
    label_key: str,
    use_rep: Representation | Sequence[Representation] | Mapping[str, Representation],
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    n_repeats: int = 20,
    classifier: str = "linear",
    C: float | str = "norm",
    n_neighbors: int = 5,
    groupby: str | None = None,
    n_support_groups: int | None = None,
    block_um: float | None = None,
    guard_um: float | None = None,
    scaling: str = "block",
    weights: str | Mapping[str, float] | None = None,
    patches_key: str = _keys.PATCHES,
    return_predictions: bool = False,
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str = "few_shot",
) -> pd.DataFrame | tuple[pd.DataFrame, pd.DataFrame]:
    """Measure how well the labels of a few spots per class classify other spots.

    Every representation gets the same draws of labelled spots, and those of more shots contain those of fewer. Where
    support (spots to learn from) and query (spots to test on) come from:

    - ``groupby``: the support from some patients (or sections), dealt in turn; the query from all others. This is what
      to expect of a new patient.
    - ``block_um``: within each section by itself, the support from half of its square blocks; support spots near the
      query are left out.
    - neither: anywhere within each section by itself; the rest is the query. Neighbours of labelled spots are then in
      the query. That is right for filling in a section, and flatters any representation that encodes position.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    label_key
        ``obs`` column of the classes; spots without a value are not used.
    use_rep
        ``obsm`` key of a representation, or a tuple of keys whose features are concatenated; a list of these compares
        several; a dict names them. Spots that lack one of them are not used for any.
    shots
        Labelled spots per class. Numbers that the rarest class does not allow are left out, with a warning.
    n_repeats
        Number of draws.
    classifier
        ``"linear"``: logistic regression. ``"centroid"``: nearest class mean of rows that were centred and scaled to
        length 1 (SimpleShot). ``"knn"``: vote of the nearest rows, weighted by inverse distance.
    C
        Inverse strength of the L2 penalty of ``"linear"``: a number; ``"norm"``: 4 divided by the mean of the squared
        lengths of the support rows; ``"paper"``: 2, the authors' probe, whose features are not scaled (it needs
        ``scaling="none"``); ``"cv"``: chosen within the support by cross-validation (as ``"norm"`` with one shot, where
        nothing can be held out).
    n_neighbors
        Neighbours of ``"knn"``; all labelled spots, if there are fewer.
    groupby
        ``obs`` column of the groups that support and query must not share, such as ``"patient"``.
    n_support_groups
        Number of groups that the support comes from; None: half of them, rounded down.
    block_um
        Side of the blocks in µm; the sections need patches (:func:`spade.pp.patches`).
    guard_um
        Width of the guard band in µm: support spots closer than this to a query spot are left out. None: the side of a
        patch and, for representations of :func:`spade.pp.spatial_context`, twice their radius (a model trained on such
        features has the same reach), and at least twice the distance between neighbouring spots.
    scaling
        ``"block"``: every key of a tuple is a block, and all blocks get the same total variance over each section (this
        reads no label, but the whole section). Image features (what :func:`spade.pp.encode_patches` wrote, and their
        context) first get deviation 1 in every column; all other blocks, such as programs, principal components and
        embeddings, keep the ratios between their columns. ``"section"``: every column of every block gets mean 0 and
        deviation 1 over each section; ``"support"``: over the labelled spots; ``"none"``: features are used as they
        are.
    weights
        What the blocks of a tuple are multiplied by after scaling: a dict from ``obsm`` key to weight (1 where there is
        none); None: 1; ``"auto"``: for each key but the first, 0, 0.5, 1 or 2 is chosen by cross-validation within the
        support (1 with one shot, where nothing can be held out).
    patches_key
        What :func:`spade.pp.patches` wrote; read only with ``block_um``.
    return_predictions
        Also return the prediction for every spot of every query, which takes memory with many spots and draws.
    table_key
        Table; may be left out when there is one.
    rng
        Seed of the draws. They follow the order of the rows: the same spots in another order give other draws.
    key_added
        ``uns`` key.

    Returns
    -------
    DataFrame
        One row per ``representation``, ``classifier``, ``shots``, ``repeat``, ``unit`` (section, or group of the query)
        and ``metric``: ``value`` of ``"balanced_accuracy"``, ``"macro_auroc"``, ``"macro_f1"`` and, per ``label``,
        ``"recall"``, with the number of query spots ``n_query`` and of classes ``n_classes``. Only classes that occur
        in the unit count; AUROC is NaN where a single one does. For a single ``SpatialData`` (or path) the table is
        also written to ``uns["few_shot"]``. :func:`few_shot_summary` computes means, intervals and paired comparisons.
    DataFrame
        With ``return_predictions``: ``section``, ``spot``, ``label`` (what is true), ``predicted`` and
        ``probability_<class>``, after the columns that name the draw and the ``unit``. :func:`spade.pl.confusion` and
        :func:`spade.pl.roc` draw it.

    Raises
    ------
    KeyError
        No such column, representation or patches.
    ValueError
        A single class, a class with too few spots even for the fewest shots, groups or blocks that cannot be split, or
        weights of keys that are not in a tuple.

    Warns
    -----
    UserWarning
        If a class has too few labelled spots for some of the ``shots``, or if a representation was made from the
        measured expression of the spots, as ``obsm["X_spade"]`` is.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> table = sp.tl.few_shot(
    ...     samples, label_key="domain", use_rep="X_texture", shots=(1, 4), n_repeats=3, groupby="patient"
    ... )
    >>> sp.tl.few_shot_summary(table)[["representation", "shots", "n_units"]].values.tolist()
    [['X_texture', 1, 2], ['X_texture', 4, 2]]
    """
    named = named_representations(use_rep)
    numbers: Sequence[int] = check_counts("shots", shots)
    check_count("n_repeats", n_repeats)
    check_flag("return_predictions", return_predictions)
    _keys.check_uns_key(key_added)
    block_weights = check_weights(weights, named)
    probe = Probe(classifier, C, n_neighbors, choose_weights=weights == "auto")
    check_paper(C, scaling)
    _check_split(groupby=groupby, n_support_groups=n_support_groups, block_um=block_um, guard_um=guard_um)
    seed = as_seed(rng)
    listed = as_list(samples)
    as_list(listed, writes=len(listed) == 1)
    rows = read_rows(
        listed,
        label_key,
        named,
        scaling=scaling,
        weights=block_weights,
        purpose="support and query",
        scores="The scores",
        groupby=groupby,
        patches_key=None if block_um is None else patches_key,
        table_key=table_key,
    )
    if groupby is not None:
        draw = partial(draw_between_groups, groupby=groupby, n_support_groups=n_support_groups)
    else:
        if guard_um is None:
            guard_um = 0.0 if block_um is None else guard_width(listed, named, patches_key, table_key)
        draw = partial(draw_within_sections, block_um=block_um, guard_um=guard_um)
    draws, numbers = draw_most(numbers, lambda n_shots: draw(rows, n_shots, n_repeats=n_repeats, seed=seed))
    results: list[Row] = []
    predicted: list[pd.DataFrame] = []
    unit = rows.section if groupby is None else rows.group
    n_fits = len(draws) * len(numbers) * len(named)
    # many small fits, which several threads would only slow down
    with threadpool_limits(1), tqdm(total=n_fits, desc="few-shot", unit="fit") as bar:
        for repeat, episode in draws:
            for k in numbers:
                for name in named:
                    facts: Row = {"representation": name, "classifier": classifier, "shots": k, "repeat": repeat}
                    query, found = _predict(probe, rows, name, episode, k, scaling=scaling, seed=seed)
                    results += [facts | score for score in _score(rows, unit[query], query, found)]
                    if return_predictions:
                        predicted.append(_predictions(rows, facts, unit[query], query, found))
                    bar.update()
    table = pd.DataFrame(results).assign(n_classes=len(rows.classes))
    table.index = table.index.astype(str)
    _warn_of_gaps(table, rows, None if groupby is None else set(rows.group[rows.labelled].tolist()))
    if len(listed) == 1:
        store_table(listed[0], table, key_added, table_key, function="tl.few_shot", label_key=label_key, seed=seed)
    return (table, pd.concat(predicted, ignore_index=True)) if return_predictions else table


def _check_split(
    *, groupby: str | None, n_support_groups: int | None, block_um: float | None, guard_um: float | None
) -> None:
    """Check the arguments that say where support and query come from."""
    if groupby is not None and block_um is not None:
        raise ValueError("groupby= and block_um= are two ways to separate support and query: choose one.")
    if guard_um is not None and block_um is None:
        raise ValueError(f"guard_um={brief(guard_um)} has no meaning without block_um=.")
    if n_support_groups is not None:
        if groupby is None:
            raise ValueError(f"n_support_groups={brief(n_support_groups)} has no meaning without groupby=.")
        check_count("n_support_groups", n_support_groups)
    if block_um is not None:
        check_positive("block_um", block_um, "µm")
    if guard_um is not None:
        check_not_negative("guard_um", guard_um, "µm")


def _predict(
    probe: Probe, rows: LabelledRows, representation: str, episode: Episode, k: int, *, scaling: str, seed: int
) -> tuple[Rows, Floats]:
    """Learn from ``k`` shots; return the rows of the query and the probabilities of the classes there."""
    support, query = episode.shots(k)
    x = rows.x[representation]
    mean, deviation = support_scale(x[support], scaling)
    predict = probe.fit((x[support] - mean) / deviation, rows.y[support], seed, rows.widths[representation])
    return query, predict((x[query] - mean) / deviation)


def _score(rows: LabelledRows, unit: NDArray[np.str_], query: Rows, probabilities: Floats) -> Iterator[Row]:
    """Yield the scores of every unit of the query."""
    for name in np.unique(unit):
        of_unit = unit == name
        for score in scores(rows.y[query[of_unit]], probabilities[of_unit], rows.classes):
            yield {"unit": name, **score}


def _predictions(
    rows: LabelledRows, facts: Row, unit: NDArray[np.str_], query: Rows, probabilities: Floats
) -> pd.DataFrame:
    """Return what is predicted for every spot of the query."""
    classes = np.array(rows.classes, dtype=object)
    columns = {
        "unit": unit, "section": rows.section[query], "spot": rows.spot[query], "label": classes[rows.y[query]],
        "predicted": classes[probabilities.argmax(1)],
    }  # fmt: skip
    of_classes = {f"probability_{name}": probabilities[:, i] for i, name in enumerate(rows.classes)}
    return pd.DataFrame({**dict.fromkeys(facts), **columns, **of_classes}).assign(**facts)


def _warn_of_gaps(table: pd.DataFrame, rows: LabelledRows, groups: set[str] | None) -> None:
    """Warn of classes and groups that are never in the query, as where a single group has a class."""
    classes_missing = sorted(set(rows.classes) - set(table.loc[table["metric"] == RECALL, "label"]))
    groups_missing = sorted((groups or set()) - set(table["unit"]))
    missing = [
        f"{what} {shorten(names)}"
        for what, names in (("classes", classes_missing), ("groups", groups_missing))
        if names
    ]
    if missing:
        warn(
            f"{' and '.join(missing)} are never in the query, so nothing is measured on them: too few groups have all "
            "the classes that a support needs."
        )
