"""Classification of slides, cross-validated by patient."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from spade import _keys
from spade._checks import check_shots
from spade._samples.features import Representation
from spade._samples.open import as_list
from spade.core.arrays import Floats, Rows
from spade.core.checks import check_count, check_flag
from spade.core.device import resolve_device
from spade.core.errors import NonFiniteLossError
from spade.core.rng import as_seed, numpy_stream
from spade.tl._few_shot.scores import Row, scores, store_table
from spade.tl._slides.bags import BagSource
from spade.tl._slides.heads import SlideConfig, SlideHead, check_heads, fit_slide_head, read_moments
from spade.tl._slides.presets import settings_with
from spade.tl._slides.slide_folds import SlideFolds, check_slide_folds, deal_slide_folds, given_folds
from spade.tl._slides.slides import Slides, read_slides

logger = logging.getLogger("spade")
#: Value of the column ``shots`` if heads are trained on all slides of the other folds.
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
    preset: str | None = None,
    scaling: str | None = None,
    class_weights: bool | None = None,
    hidden: int | Sequence[int] | None = None,
    dropout: float = SlideConfig.dropout,
    n_epochs: int = SlideConfig.n_epochs,
    lr: float | None = None,
    schedule: str | None = None,
    weight_decay: float = SlideConfig.weight_decay,
    patience: int = SlideConfig.patience,
    inner_val: float = SlideConfig.inner_val,
    device: str = "auto",
    return_predictions: bool = False,
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str = "slide_task",
) -> pd.DataFrame | tuple[pd.DataFrame, pd.DataFrame]:
    """Cross-validate slide classification from patch features.

    Patients are dealt into folds with like shares of the classes; each fold is predicted by heads that were trained on
    the others. All representations and heads get the same folds, shots and inner splits. Patches are read slide by
    slide, whenever they are needed.

    Parameters
    ----------
    bags
        Samples (a ``SpatialData``, a path to a zarr store, or a list or dict of these); or feature files as TRIDENT and
        CLAM write them, a folder or a list: ``.h5`` with ``features`` ``(n, d)`` or ``(1, n, d)`` and ``coords``
        ``(n, 2)``, or ``.pt`` with a tensor ``(n, d)``; or a dict of these, one folder or list per representation.
    label_key
        Column of the classes; slides without a value are not used.
    use_rep
        For samples: ``obsm`` key of a representation; a tuple of keys is concatenated; a list of these compares
        several; a dict names them. Patches that lack one of them are not used for any. None for feature files.
    head
        ``"mean"``: logistic regression on the mean over patches, C = width × classes / 100, as in the SPADE paper.
        ``"abmil"``: gated attention (Ilse et al. 2018). ``"transmil"``: TransMIL (Shao et al. 2021), with exact
        attention. A list compares several.
    labels
        Table with a column ``sample`` that names every slide once (files by their name without suffix), as
        :func:`spade.io.read_annotations` returns, with the columns asked for here. None: they are columns of ``obs``.
    slide_key
        ``obs`` column that names the slides; None: every section is one.
    groupby
        Column of the patient (or another group), whose slides are kept in one fold; None: slides are independent.
    fold_key
        Column with the fold of every slide; None: folds are dealt.
    n_folds
        Number of folds that are dealt.
    shots
        Number of training slides per class; larger draws contain the smaller ones. None: all slides of the other folds.
    n_repeats
        Draws of shots, inner splits and initial weights; the folds stay the same.
    preset
        ``"paper"``: what the authors of SPADE state of their heads, in place of the defaults of settings that are not
        given: ``hidden=(512, 512, 384)``, ``lr=1e-5``, ``schedule="cosine"``, ``scaling="none"`` and
        ``class_weights=False``. All others keep their defaults, as the authors do not state them.
    scaling
        ``"train"`` (default): features get mean 0 and deviation 1 over the training slides (for ``"mean"``, slide means
        do). ``"none"``: features are not scaled.
    class_weights
        Weigh slides so that all classes count alike; True by default.
    hidden
        Width of ``"abmil"`` and ``"transmil"``, 256 by default; or widths of the successive layers of ``"abmil"`` and,
        last, of its attention, which otherwise has half the width. ``"transmil"`` then takes the first. The settings
        below, up to ``inner_val``, are also theirs.
    dropout
        Share of the hidden values that is dropped in training.
    n_epochs, lr, weight_decay
        Settings of AdamW, one slide per step; the rate is 2e-4 by default.
    schedule
        ``"constant"`` (default), or ``"cosine"``: the rate falls to 0 over all steps of ``n_epochs``.
    patience
        Training ends after this number of epochs without a lower loss on the inner split; the best epoch is kept.
    inner_val
        Share of the training slides, split off by patient, that selects the epoch. With 0, or if a class has a single
        patient, there is no inner split and the last epoch is kept.
    device
        Torch device; ``"auto"`` takes a GPU if there is one.
    return_predictions
        Also return the prediction for every slide.
    table_key
        Table; may be left out when there is one.
    rng
        Seed.
    key_added
        ``uns`` key.

    Returns
    -------
    DataFrame
        One row per ``representation`` (with the head, if there are several), ``classifier`` (the head), ``shots`` (0:
        all slides), ``repeat``, ``unit`` and ``metric``: ``value`` of ``"balanced_accuracy"``, ``"macro_auroc"``,
        ``"macro_f1"`` and, per ``label``, ``"recall"``, beside ``n_query`` and ``n_classes``. These are computed over
        the slides of a fold, so the unit is the fold. ``"accuracy"`` has one row per patient. For a single
        ``SpatialData`` (or path) also written to ``uns["slide_task"]``. :func:`few_shot_summary` and
        :func:`spade.pl.few_shot` take this table.
    DataFrame
        With ``return_predictions``: ``slide``, ``group``, ``label``, ``predicted`` and ``probability_<class>`` of every
        trained head, with the columns that name the head and the fold as ``unit``.

    Raises
    ------
    KeyError
        No such column, representation or array in a file; labels and slides that do not match.
    ValueError
        Slides without patches or of another width, damaged files, files that hold more than tensors, coordinates that
        do not match the features, several labels or patients on a slide, a single class, a fold with a single class, a
        patient in two folds.

    Notes
    -----
    The heads of different folds are trained on largely the same slides, so the scores of folds are not independent, and
    intervals over them are optimistic. Intervals of ``metric="accuracy"`` are over patients, given the heads; use them
    to compare representations.

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
    may_be_preset = {
        "scaling": scaling, "class_weights": class_weights, "hidden": hidden, "lr": lr, "schedule": schedule,
    }  # fmt: skip
    config = settings_with(
        SlideConfig, preset, may_be_preset, dropout=dropout, n_epochs=n_epochs, weight_decay=weight_decay,
        patience=patience, inner_val=inner_val,
    )  # fmt: skip
    heads = check_heads(head, hidden=config.hidden)
    shots_drawn = [ALL_SLIDES] if shots is None else check_shots(shots)
    check_count("n_repeats", n_repeats)
    check_count("n_folds", n_folds, 2)
    check_flag("return_predictions", return_predictions)
    _keys.check_uns_key(key_added)
    device = resolve_device(device)
    seed = as_seed(rng)
    if isinstance(bags, Iterator):
        bags = list(bags)
    slides = read_slides(
        bags,
        use_rep,
        columns={"label_key": label_key, "groupby": groupby, "fold_key": fold_key},
        labels=labels,
        slide_key=slide_key,
        table_key=table_key,
    )
    folds = deal_slide_folds(slides, n_folds, seed) if fold_key is None else given_folds(slides, fold_key)
    check_slide_folds(slides, folds, shots_drawn[-1])
    rows: list[Row] = []
    predictions: list[Row] = []
    n_without_split = 0
    draws = _Draws(heads, shots_drawn, n_repeats, seed)
    for fit in _cross_validate(slides, folds, draws, config, device):
        rows += [fit.facts | row for row in _score_rows(slides, fit)]
        predictions += [fit.facts | {"unit": fit.fold} | row for row in _prediction_rows(slides, fit)]
        n_without_split += fit.facts["classifier"] != "mean" and not fit.selected
    if n_without_split and config.inner_val:
        logger.info(
            "%d heads had too few patients of a class for an inner split: the last of %d epochs is kept",
            n_without_split, n_epochs,
        )  # fmt: skip
    table = pd.DataFrame(rows).assign(n_classes=len(slides.classes))
    table.index = table.index.astype(str)
    if slides.bags.places and len(listed := as_list(bags)) == 1:
        store_table(listed[0], table, key_added, table_key, function="tl.slide_task", label_key=label_key, seed=seed)
    return (table, pd.DataFrame(predictions)) if return_predictions else table


class _Draws(NamedTuple):
    """What is trained on every fold: heads, numbers of shots, and repeats with random streams of their own."""

    heads: list[str]
    shots: list[int]
    n_repeats: int
    seed: int


class _Fit(NamedTuple):
    """Prediction of the slides ``query`` of a fold, ``(n_query, n_classes)``, by one head."""

    facts: Row
    fold: str
    query: Rows
    probabilities: Floats
    selected: bool


def _cross_validate(
    slides: Slides, folds: SlideFolds, draws: _Draws, config: SlideConfig, device: str
) -> Iterator[_Fit]:
    """Train every head on every draw, and predict the fold that was left out."""
    moments = {name: read_moments(slides.bags, name, slides.labelled) for name in slides.bags.widths}
    n_fits = len(moments) * len(draws.heads) * len(draws.shots) * draws.n_repeats * len(folds.names)
    with tqdm(total=n_fits, desc="slides", unit="fit") as bar:
        for index in range(draws.n_repeats * len(folds.names)):
            repeat, f = divmod(index, len(folds.names))
            others, query = folds.split(f, slides)
            order = numpy_stream(draws.seed, "shots of slides", index).permutation(others)
            fit_seed = int(numpy_stream(draws.seed, "fit of slides", index).integers(2**63))
            for n_shots, (name, of_slides), head in product(draws.shots, moments.items(), draws.heads):
                train = others if n_shots == ALL_SLIDES else _first_of_every_class(order, slides, n_shots)
                try:
                    fitted = fit_slide_head(
                        slides, name, of_slides, head, train, config=config, device=device, seed=fit_seed
                    )
                except NonFiniteLossError as error:
                    raise NonFiniteLossError(f"{name}, {head}, {folds.names[f]}: {error}") from error
                facts: Row = {
                    "representation": name if len(draws.heads) == 1 else f"{name}, {head}",
                    "classifier": head,
                    "shots": n_shots,
                    "repeat": repeat,
                }
                yield _Fit(facts, folds.names[f], query, _probabilities(fitted, query), fitted.selected)
                bar.update()


def _first_of_every_class(order: Rows, slides: Slides, n_shots: int) -> Rows:
    """Return the first ``n_shots`` slides of every class."""
    return np.concatenate([order[slides.y[order] == c][:n_shots] for c in range(len(slides.classes))])


def _probabilities(head: SlideHead, query: Rows) -> Floats:
    return np.stack([head.read(i)[0] for i in query])


def _score_rows(slides: Slides, fit: _Fit) -> list[Row]:
    """Scores of a fold, and the accuracy of every patient in it."""
    truth = slides.y[fit.query]
    rows: list[Row] = [{"unit": fit.fold, **row} for row in scores(truth, fit.probabilities, slides.classes)]
    right, group = fit.probabilities.argmax(1) == truth, slides.group[fit.query]
    for name in dict.fromkeys(group.tolist()):
        of_patient = right[group == name]
        facts = {"unit": name, "metric": "accuracy", "label": ""}
        rows.append(facts | {"value": float(of_patient.mean()), "n_query": len(of_patient)})
    return rows


def _prediction_rows(slides: Slides, fit: _Fit) -> list[Row]:
    """What is predicted for every slide of a fold."""
    return [
        {
            "slide": slides.bags.names[i],
            "group": slides.group[i],
            "label": slides.classes[slides.y[i]],
            "predicted": slides.classes[int(row.argmax())],
        }
        | {f"probability_{name}": float(p) for name, p in zip(slides.classes, row, strict=True)}
        for i, row in zip(fit.query, fit.probabilities, strict=True)
    ]
