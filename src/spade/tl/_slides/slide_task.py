"""Classification of slides, cross-validated by patient."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from spade import _keys
from spade._checks import shorten
from spade._samples.features import Representation
from spade._samples.open import as_list
from spade.core.checks import check_count
from spade.core.device import resolve_device
from spade.core.errors import NonFiniteLossError
from spade.core.evaluation.folds import groups_per_class, stratified_folds
from spade.core.rng import as_seed, numpy_stream
from spade.tl._few_shot.scores import scores, store_table
from spade.tl._slides.bags import BagSource
from spade.tl._slides.heads import SlideConfig, check_heads, fit, read_moments
from spade.tl._slides.slides import Ints, Slides, read_slides

logger = logging.getLogger("spade")
#: What the column ``shots`` has where all slides teach.
ALL_SLIDES = 0


def slide_task(
    bags: BagSource,
    *,
    label_key: str,
    use_rep: Representation | Sequence[Representation] | Mapping[str, Representation] | None = None,
    head: str | Sequence[str] = "mean",
    labels: pd.DataFrame | None = None,
    slide_key: str | None = None,
    groupby: str | None = "patient",
    fold_key: str | None = None,
    n_folds: int = 5,
    shots: int | Sequence[int] | None = None,
    n_repeats: int = 1,
    scaling: str = SlideConfig.scaling,
    class_weights: bool = SlideConfig.class_weights,
    hidden: int = SlideConfig.hidden,
    dropout: float = SlideConfig.dropout,
    n_epochs: int = SlideConfig.n_epochs,
    lr: float = SlideConfig.lr,
    weight_decay: float = SlideConfig.weight_decay,
    patience: int = SlideConfig.patience,
    inner_val: float = SlideConfig.inner_val,
    device: str = "auto",
    return_predictions: bool = False,
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str = "slide_task",
) -> pd.DataFrame | tuple[pd.DataFrame, pd.DataFrame]:
    """Measure how well the class of a slide is told from its patches.

    Patients are dealt into folds with like shares of the classes; each fold is predicted by heads that learnt from the others. All
    representations and heads get the same folds, shots and inner splits. Patches are read slide by slide, whenever they are needed.

    Parameters
    ----------
    bags
        Samples (a ``SpatialData``, a path to a zarr store, or an iterable of these); or feature files as TRIDENT and CLAM write them, a
        folder or a list: ``.h5`` with ``features`` ``(n, d)`` or ``(1, n, d)`` and ``coords`` ``(n, 2)``, or ``.pt`` with a tensor
        ``(n, d)``; or a dict of these, one folder or list per representation.
    label_key
        Column of the classes; slides without a value are not used.
    use_rep
        Of samples: ``obsm`` key of a representation; a tuple of keys is put side by side; a list of these compares several; a dict
        names them. Patches that lack one of them are not used for any. None for feature files.
    head
        ``"mean"``: logistic regression on the mean over patches, C = width × classes / 100, as in the SPADE paper. ``"abmil"``: gated
        attention (Ilse et al. 2018). ``"transmil"``: TransMIL (Shao et al. 2021), with exact attention. A list compares several.
    labels
        Table with a column ``sample`` that names every slide once (files by their name without suffix), as
        :func:`spade.io.read_annotations` returns, with the columns asked for here; None: these are in ``obs``.
    slide_key
        ``obs`` column that names the slides; None: every section is one.
    groupby
        Column of what must not be in two folds; None: slides are independent of each other.
    fold_key
        Column with the fold of every slide; None: they are dealt.
    n_folds
        Number of folds that are dealt.
    shots
        Slides per class that teach; those of more shots contain those of fewer. None: all in the other folds.
    n_repeats
        Draws of shots, inner splits and weights to begin with; the folds stay.
    scaling
        ``"train"``: features get mean 0 and deviation 1 over the slides that teach (``"mean"``: their means do). ``"none"``: as they are.
    class_weights
        Weigh slides so that classes count alike.
    hidden, dropout
        Width and dropout of ``"abmil"`` and ``"transmil"``, as all that follows.
    n_epochs, lr, weight_decay
        Of AdamW, one slide per step.
    patience
        Epochs without a lower loss on the inner split after which it ends; the best epoch is kept.
    inner_val
        Share of the slides that teach which choose the epoch instead, parted by patient; 0, or where a class has one patient only:
        none do, and the last epoch is kept.
    device
        Of torch; ``"auto"``: a GPU if there is one.
    return_predictions
        Also return what is predicted for every slide.
    table_key
        Table; may be left out when there is one.
    rng
        Seed.
    key_added
        ``uns`` key.

    Returns
    -------
    DataFrame
        One row per ``representation`` (with the head, if there are several), ``classifier`` (head), ``shots`` (0: all), ``repeat``, ``unit``
        and ``metric``: ``value`` of ``"balanced_accuracy"``, ``"macro_auroc"``, ``"macro_f1"`` and, per ``label``, ``"recall"``, beside
        ``n_query``. These take several slides, so the unit is the fold. ``"accuracy"`` has one row per patient. For a single
        ``SpatialData`` (or path) also written to ``uns["slide_task"]``. :func:`few_shot_summary` and :func:`spade.pl.few_shot` take it.
    DataFrame
        With ``return_predictions``: ``slide``, ``group``, ``label``, ``predicted`` and ``probability_<class>`` of every fit.

    Raises
    ------
    KeyError
        No such column, representation or array in a file; labels and slides that do not match.
    ValueError
        Slides without patches or of another width, damaged files, files that hold more than tensors, coordinates that do not match the
        features, several labels or patients on a slide, one class only, a fold with one class, a patient in two folds.

    Notes
    -----
    Folds are predicted by heads that learnt from largely the same slides, so their scores are not independent, and intervals over
    them are optimistic. Those of ``metric="accuracy"`` are over patients, given the heads; use them to compare representations.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(8, 20)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> table = sp.tl.slide_task(samples, label_key="organ", use_rep="X_texture", n_folds=2)
    >>> sp.tl.few_shot_summary(table, metric="accuracy")[["representation", "shots", "n_units"]].values.tolist()
    [['X_texture', 0, 8]]
    """
    config = SlideConfig(
        scaling=scaling, class_weights=bool(class_weights), hidden=hidden, dropout=dropout, n_epochs=n_epochs, lr=lr,
        weight_decay=weight_decay, patience=patience, inner_val=inner_val,
    )  # fmt: skip
    heads = check_heads(head, hidden=hidden)
    wanted = _check_shots(shots)
    check_count("n_repeats", n_repeats)
    check_count("n_folds", n_folds, 2)
    _keys.check_uns_key(key_added)
    device = resolve_device(device)
    seed = as_seed(rng)
    columns = {"label_key": label_key, "groupby": groupby, "fold_key": fold_key}
    if isinstance(bags, Iterator):
        bags = list(bags)
    slides = read_slides(bags, use_rep, columns, labels, slide_key, table_key)
    folds, fold_of = _given_folds(slides, fold_key) if fold_key else _dealt_folds(slides, n_folds, seed)
    _check_folds(slides, folds, fold_of, wanted)
    moments = {name: read_moments(slides, name) for name in slides.bags.widths}
    found: list[dict[str, Any]] = []
    predictions: list[dict[str, Any]] = []
    without = 0
    n_fits = len(moments) * len(heads) * len(wanted) * n_repeats * len(folds)
    with tqdm(total=n_fits, desc="slides", unit="fit") as bar:
        for repeat in range(n_repeats):
            for f, fold in enumerate(folds):
                index = repeat * len(folds) + f
                others = slides.labelled[fold_of[slides.labelled] != f]
                query = slides.labelled[fold_of[slides.labelled] == f]
                order = numpy_stream(seed, "shots of slides", index).permutation(others)
                own_seed = int(numpy_stream(seed, "fit of slides", index).integers(2**63))
                for k in wanted:
                    train = others if k == ALL_SLIDES else _first(order, slides, k)
                    for name, of_slides in moments.items():
                        for one in heads:
                            try:
                                read, chosen = fit(slides, name, of_slides, one, train, config, device, own_seed)
                            except NonFiniteLossError as error:
                                raise NonFiniteLossError(f"{name}, {one}, {fold}: {error}") from error
                            without += one != "mean" and not chosen
                            facts = {
                                "representation": name if len(heads) == 1 else f"{name}, {one}",
                                "classifier": one,
                                "shots": k,
                                "repeat": repeat,
                            }
                            probabilities = np.stack([read(i)[0] for i in query])
                            found += [facts | row for row in _rows(slides, query, probabilities, fold)]
                            predictions += [
                                facts | {"unit": fold} | row for row in _of_slides(slides, query, probabilities)
                            ]
                            bar.update()
    if without and inner_val:
        logger.info(
            "%d fits had too few patients of a class for an inner split: the last of %d epochs is kept",
            without,
            n_epochs,
        )
    table = pd.DataFrame(found).assign(n_classes=len(slides.classes))
    table.index = table.index.astype(str)
    if slides.bags.places and len(listed := as_list(bags)) == 1:
        store_table(listed[0], table, key_added, table_key, function="tl.slide_task", label_key=label_key, seed=seed)
    return (table, pd.DataFrame(predictions)) if return_predictions else table


def _check_shots(shots: int | Sequence[int] | None) -> list[int]:
    if shots is None:
        return [ALL_SLIDES]
    return sorted({check_count("shots", k) for k in ([shots] if isinstance(shots, (int, np.integer)) else shots)})


def _given_folds(slides: Slides, fold_key: str) -> tuple[list[str], Ints]:
    """Folds of a column, each patient in one."""
    own, fold = slides.labelled, slides.bags.facts["fold_key"]
    if lacking := [slides.bags.names[i] for i in own if not fold[i]]:
        raise ValueError(f"fold_key={fold_key!r} is missing for slides {shorten(lacking)}. Fill it in.")
    folds_of: dict[str, set[str]] = {}
    for i in own:
        folds_of.setdefault(slides.group[i], set()).add(fold[i])
    if several := [group for group, folds in folds_of.items() if len(folds) > 1]:
        raise ValueError(
            f"fold_key={fold_key!r}: the slides of {shorten(several)} are in several folds, such as "
            f"{shorten(sorted(folds_of[several[0]]))}. All slides of a patient belong into one."
        )
    names = sorted(set(fold[own].tolist()))
    if len(names) < 2:
        raise ValueError(f"fold_key={fold_key!r}: all slides are in fold {names[0]!r}; it takes two.")
    return names, np.where(slides.y >= 0, np.searchsorted(names, fold), -1)


def _dealt_folds(slides: Slides, n_folds: int, seed: int) -> tuple[list[str], Ints]:
    own = slides.labelled
    groups = np.unique(slides.group[own].astype(str), return_inverse=True)[1]
    if len(set(groups.tolist())) < n_folds:
        raise ValueError(
            f"n_folds={n_folds}: there are {len(set(groups.tolist()))} patients with labels. Take fewer folds, or groupby=None if slides "
            "are independent of each other."
        )
    fold_of = np.full(len(slides.y), -1)
    dealt = stratified_folds(groups, slides.y[own], len(slides.classes), n_folds, numpy_stream(seed, "folds of slides"))
    fold_of[own] = dealt
    return [f"fold {f}" for f in range(n_folds)], fold_of


def _check_folds(slides: Slides, folds: list[str], fold_of: Ints, wanted: list[int]) -> None:
    """Raise unless every fold has two classes, and all others together have enough slides of all."""
    own = slides.labelled
    patients = groups_per_class(
        np.unique(slides.group[own].astype(str), return_inverse=True)[1], slides.y[own], len(slides.classes)
    )
    there = ", ".join(f"{name}: {count}" for name, count in zip(slides.classes, patients, strict=True))
    for f, fold in enumerate(folds):
        inside = np.bincount(slides.y[own[fold_of[own] == f]], minlength=len(slides.classes))
        outside = np.bincount(slides.y[own[fold_of[own] != f]], minlength=len(slides.classes))
        if (inside > 0).sum() < 2:
            only = [name for name, count in zip(slides.classes, inside, strict=True) if count]
            raise ValueError(
                f"{fold} has slides of {shorten(only) if only else 'no class'} alone, which tells nothing about telling classes apart "
                f"(patients per class: {there}). Take fewer folds with n_folds=, or other ones."
            )
        if few := [name for name, count in zip(slides.classes, outside, strict=True) if count < max(1, wanted[-1])]:
            raise ValueError(
                f"{fold}: the other folds have fewer than {max(1, wanted[-1])} slides of {shorten(few)} to learn from (patients per class: "
                f"{there}). Lower shots=, change n_folds=, or leave the class without labels."
            )


def _first(order: NDArray[Any], slides: Slides, k: int) -> Ints:
    """Return the first ``k`` slides of every class."""
    return np.concatenate([order[slides.y[order] == c][:k] for c in range(len(slides.classes))])


def _rows(slides: Slides, query: Ints, probabilities: NDArray[Any], fold: str) -> list[dict[str, Any]]:
    """Scores of a fold, and the accuracy of every patient in it."""
    found = [{"unit": fold} | one for one in scores(slides.y[query], probabilities, slides.classes)]
    right, group = probabilities.argmax(1) == slides.y[query], slides.group[query]
    for name in dict.fromkeys(group.tolist()):
        own = group == name
        found.append(
            {
                "unit": name,
                "metric": "accuracy",
                "label": "",
                "value": float(right[own].mean()),
                "n_query": int(own.sum()),
            }
        )
    return found


def _of_slides(slides: Slides, query: Ints, probabilities: NDArray[Any]) -> list[dict[str, Any]]:
    return [
        {
            "slide": slides.bags.names[i],
            "group": slides.group[i],
            "label": slides.classes[slides.y[i]],
            "predicted": slides.classes[int(row.argmax())],
        }
        | {f"probability_{name}": float(p) for name, p in zip(slides.classes, row, strict=True)}
        for i, row in zip(query, probabilities, strict=True)
    ]
