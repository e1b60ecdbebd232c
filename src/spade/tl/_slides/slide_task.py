"""Classes, grades or numbers of slides, predicted across folds by patient and for other cohorts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from spade import _keys
from spade._checks import check_counts
from spade._said.lines import speaks
from spade._samples.features import Representation
from spade._samples.open import as_list
from spade.core.checks import brief, check_count, check_flag
from spade.core.device import resolve_device
from spade.core.rng import as_seed
from spade.tl._few_shot.scores import store_table
from spade.tl._slides.bags import BagSource
from spade.tl._slides.pooled import SLIDE, check_unit
from spade.tl._slides.presets import slide_settings
from spade.tl._slides.slide_folds import check_slide_folds, deal_slide_folds, given_folds
from spade.tl._slides.slides import read_slides
from spade.tl._slides.task.cohorts import asked_for
from spade.tl._slides.task.evaluate import ALL_SLIDES, Draws, Evaluation
from spade.tl._slides.task.settings import N_FOLDS, SlideConfig, check_heads, check_n_folds, check_used
from spade.tl._slides.task.tables import folds_are_pooled, make_tables
from spade.tl._slides.task.targets import AUTO, CONTINUOUS

logger = logging.getLogger("spade")


@speaks
def slide_task(
    bags: BagSource,
    *,
    label_key: str,
    target: str = AUTO,
    use_rep: Representation | Sequence[Representation] | Mapping[str, Representation] | None = None,
    head: str | Sequence[str] = "mean",
    labels: pd.DataFrame | None = None,
    slide_key: str | None = None,
    groupby: str | None = "patient",
    unit: str = SLIDE,
    cohort_key: str | None = None,
    train_on: str | Sequence[str] | None = None,
    test_on: str | Sequence[str] | None = None,
    fold_key: str | None = None,
    n_folds: int = N_FOLDS,
    shots: int | Sequence[int] | None = None,
    n_repeats: int = 1,
    preset: str | None = None,
    loss: str | None = None,
    C: float | str | None = None,
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
    """Predict a class, a grade or a number of every slide from patch features, by heads that never saw the patient.

    Patients are dealt into folds with like shares of the classes, grades or quantiles of the target; each fold is
    predicted by heads that were trained on the others. With ``train_on``, folds are those of some cohorts, and heads
    trained on all their slides also predict the slides of other cohorts. All representations and heads get the same
    folds, shots and inner splits. Patches are read slide by slide, whenever they are needed.

    Parameters
    ----------
    bags
        Samples (a ``SpatialData``, a path to a zarr store, or a list or dict of these); or feature files as TRIDENT and
        CLAM write them, a folder or a list: ``.h5`` with ``features`` ``(n, d)`` or ``(1, n, d)`` and ``coords``
        ``(n, 2)``, or ``.pt`` with a tensor ``(n, d)``; or a dict of these, one folder or list per representation.
    label_key
        Column of what is predicted; slides without a value are not used.
    target
        ``"classes"``: classes without an order; numbers must be whole. ``"ordinal"``: grades, such as ISUP; an ordered
        categorical, or whole numbers. ``"continuous"``: numbers. ``"auto"``: classes, if the column holds text,
        categories, True and False, or 0 and 1; other numbers are an error that asks which of the three they are.
    use_rep
        For samples: ``obsm`` key of a representation; a tuple of keys is concatenated; a list of these compares
        several; a dict names them. Patches that lack one of them are not used for any. None for feature files.
    head
        ``"mean"``: a linear model of the mean over patches, namely logistic regression for classes, cumulative logits
        (proportional odds) for grades, ridge regression for numbers.
        ``"abmil"``: gated attention (Ilse et al. 2018). ``"transmil"``: TransMIL (Shao et al. 2021), with exact
        attention. A list compares several.
    labels
        Table with a column ``sample`` that names every slide once (files by their name without suffix), as
        :func:`spade.io.read_annotations` returns, with the columns asked for here. None: they are columns of ``obs``.
    slide_key
        ``obs`` column that names the slides; None: every section is one.
    groupby
        Column of the patient (or another group), whose slides are kept in one fold; None: slides are independent.
    unit
        What is learned and scored. ``"slide"`` (default): every slide by itself. ``"patient"``: all patches of a
        patient's slides are one bag, with one label and one prediction; where "slides" are counted here, patients are.
        Slides without a value are not part of the bag, and the others must agree.
    cohort_key
        Column of the cohort of every slide, such as a hospital; needs ``train_on``.
    train_on
        One or several cohorts that heads are trained on, and that are cross-validated.
    test_on
        Cohorts that heads trained on all slides of ``train_on`` are tested on, each by itself; None: all others. Slides
        of cohorts in neither are not used.
    fold_key
        Column with the fold of every slide; None: folds are dealt.
    n_folds
        Number of folds that are dealt, without ``fold_key``. 0, with ``train_on``: its cohorts are not
        cross-validated, and every head is trained once, to be tested on the others.
    shots
        Number of training slides per class or grade, or of training slides in all for a continuous target; larger draws
        contain the smaller ones. None: all slides of the other folds.
    n_repeats
        Draws of shots, inner splits and initial weights; the folds stay the same.
    preset
        ``"paper"``: what the authors of SPADE state of their heads, in place of the defaults of settings that are not
        given: ``C="paper"``, ``hidden=(512, 512, 384)``, ``lr=1e-5``, ``schedule="cosine"``, ``scaling="none"``,
        ``class_weights=False`` and, for grades, ``loss="cross_entropy"``. All others keep their defaults, as the
        authors do not state them. Not for a continuous target.
    loss
        Grades only: ``"cumulative"`` (default) has one score per slide and cuts between the grades, and predicts the
        median grade. ``"cross_entropy"`` learns grades as if they were classes, and predicts the most probable one.
        Classes are learned with ``"cross_entropy"``, numbers with ``"squared"`` errors of the standardised target.
    C
        Inverse strength of the L2 penalty of ``"mean"``: a number (for ridge regression, the penalty is 1 / C);
        ``"norm"`` (default): 4 divided by the mean of the squared lengths of the training rows; ``"paper"`` (classes,
        or ``loss="cross_entropy"``): 2, for features that are not scaled and slides that count alike; ``"cv"``
        (continuous targets, and their default): least squared error on patients held out of the training slides.
    scaling
        ``"block"`` (default): every key of a tuple is a block, and all blocks get the same variance over the training
        slides (for ``"mean"``, over slide means); columns of image features get the same variance, other blocks keep
        the ratios between their columns, as in :func:`few_shot`. ``"train"``: every column gets mean 0 and deviation 1.
        ``"none"``: features are not scaled.
    class_weights
        Weigh slides so that all classes or grades count alike; True by default. Not for a continuous target.
    hidden
        Width of ``"abmil"`` and ``"transmil"``, 256 by default; or widths of the successive layers of ``"abmil"`` and,
        last, of its attention, which otherwise has half the width. ``"transmil"`` then takes the first. The settings
        below, up to ``inner_val``, are also theirs.
    dropout
        Share of the hidden values that is dropped in training.
    n_epochs
        Attention heads: passes over the training slides, one slide per step.
    lr
        Attention heads: learning rate of AdamW; None: 2e-4, or that of the preset.
    weight_decay
        Attention heads: weight decay of AdamW.
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
        all slides), ``repeat``, ``unit``, ``metric`` and ``label`` (the class of ``"recall"``, else empty), with
        ``value``, ``n_query`` slides (``unit="patient"``: patients) and ``n_classes`` (0: continuous). The metrics are

        - of classes: ``"balanced_accuracy"``, ``"macro_auroc"``, ``"macro_f1"`` and ``"recall"``;
        - of grades: ``"quadratic_kappa"``, ``"balanced_accuracy"``, ``"mae"`` (in grades) and ``"recall"``;
        - of numbers: ``"pearson"``, ``"r2"`` (against the mean of the training slides), ``"c_index"`` (share of pairs
          in the right order) and ``"mae"``.

        These compare slides, so the unit is the fold. If a fold has fewer than 10 slides or a single grade or value,
        grades and numbers are scored over the predictions of all folds together, and the unit is ``"all folds"``.
        Two metrics have one row per patient: ``"accuracy"`` (classes and grades) and ``"absolute_error"`` (grades and
        numbers). With ``train_on``, ``evaluation`` is ``"cross-validated"`` or ``"external"``, ``cohort`` is the cohort
        that is predicted, and the unit of external scores is the cohort. ``low`` and ``high``, of units that are all
        folds or a cohort, are 95 % bootstrap bounds over patients, given the heads. For a single ``SpatialData`` (or
        path) also written to ``uns["slide_task"]``. :func:`few_shot_summary` and :func:`spade.pl.few_shot` take this
        table.
    DataFrame
        With ``return_predictions``: ``slide``, ``group``, ``label`` (what is true), ``predicted`` and, of classes and
        grades, ``probability_<class>`` of every trained head, with the columns that name the head, and the fold or
        cohort as ``unit``. With ``unit="patient"`` ``group`` is the patient, with ``n_slides`` in place of ``slide``.

    Warns
    -----
    UserWarning
        Slides without a grade or number, which are not used.

    Raises
    ------
    KeyError
        No such column, representation or array in a file; labels and slides that do not match.
    ValueError
        Slides without patches or of another width, damaged files, files that hold more than tensors, coordinates that
        do not match the features, several labels or patients on a slide, a fold with a single class, a patient in two
        folds or cohorts or, with ``unit="patient"``, with two labels. A single class, grade or value; numbers that are
        not finite; numbers that may be classes or amounts; grades without an order. Cohorts that are not there, or both
        trained and tested on; a class that only test cohorts have; a test cohort with a single class, grade or value.
        Settings that the target or the head does not have.

    Notes
    -----
    The heads of different folds are trained on largely the same slides, so the scores of folds are not independent, and
    intervals over them are optimistic. Intervals of ``metric="accuracy"`` and ``"absolute_error"`` are over patients,
    given the heads; use them to compare representations. Numbers that are predicted by the heads of several folds are
    not quite on one scale, so that correlations over all folds are a little low.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(8, 20)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> table = sp.tl.slide_task(samples, label_key="organ", use_rep="X_texture", n_folds=2)
    >>> sp.tl.few_shot_summary(table, metric="accuracy")[["representation", "shots", "n_units"]].values.tolist()
    [['X_texture', 0, 8]]

    Numbers, with heads of one hospital that are tested on another:

    >>> for i, sample in enumerate(samples):
    ...     sample["table"].obs["site"], sample["table"].obs["age"] = "AB"[i // 5], 40.0 + i
    >>> table = sp.tl.slide_task(
    ...     samples, label_key="age", target="continuous", use_rep="X_texture", n_folds=2,
    ...     cohort_key="site", train_on="A",
    ... )
    >>> table.groupby(["evaluation", "cohort", "metric"]).size()["external", "B"].to_dict()
    {'absolute_error': 3, 'c_index': 1, 'mae': 1, 'pearson': 1, 'r2': 1}
    """
    may_be_preset = {
        "C": C, "scaling": scaling, "class_weights": class_weights, "hidden": hidden, "lr": lr, "schedule": schedule,
        "loss": loss,
    }  # fmt: skip
    config = slide_settings(
        target, preset, may_be_preset, dropout=dropout, n_epochs=n_epochs, weight_decay=weight_decay,
        patience=patience, inner_val=inner_val,
    )  # fmt: skip
    heads = check_heads(head, hidden=config.hidden)
    check_used(
        SlideConfig, heads, {"C": C}, {"hidden": hidden, "lr": lr, "schedule": schedule}, dropout=dropout,
        n_epochs=n_epochs, weight_decay=weight_decay, patience=patience, inner_val=inner_val,
    )  # fmt: skip
    shots_drawn = [ALL_SLIDES] if shots is None else check_counts("shots", shots)
    if target == CONTINUOUS and shots_drawn[0] == 1:
        raise ValueError(f"shots={brief(shots)}: target={target!r} needs at least 2 training slides.")
    cohorts = asked_for(cohort_key, train_on, test_on)
    check_count("n_repeats", n_repeats)
    check_n_folds(n_folds, fold_key, or_none=cohorts is not None)
    check_unit(unit, groupby)
    check_flag("return_predictions", return_predictions)
    _keys.check_uns_key(key_added)
    device = resolve_device(device)
    seed = as_seed(rng)
    if isinstance(bags, Iterator):
        bags = list(bags)
    slides = read_slides(
        bags,
        use_rep,
        columns={"label_key": label_key, "groupby": groupby, "fold_key": fold_key, "cohort_key": cohort_key},
        labels=labels,
        slide_key=slide_key,
        table_key=table_key,
        target=target,
        cohorts=cohorts,
        unit=unit,
    )
    trained = slides.to_train()
    folds = deal_slide_folds(trained, n_folds, seed) if fold_key is None else given_folds(trained, fold_key)
    check_slide_folds(trained, folds, shots_drawn[-1])
    fits = Evaluation(slides, Draws(heads, shots_drawn, n_repeats, seed), config, device).run(folds)
    table, predictions, n_without_split = make_tables(slides, fits, pooled=folds_are_pooled(trained, folds), seed=seed)
    if n_without_split and config.inner_val:
        logger.info(
            "%d heads had too few patients of a class for an inner split: the last of %d epochs is kept",
            n_without_split, n_epochs,
        )  # fmt: skip
    if slides.bags.places and len(listed := as_list(bags)) == 1:
        store_table(
            listed[0], table, key_added, table_key, function="tl.slide_task", label_key=label_key, target=slides.kind,
            unit=unit, seed=seed,
        )  # fmt: skip
    return (table, pd.DataFrame(predictions)) if return_predictions else table
