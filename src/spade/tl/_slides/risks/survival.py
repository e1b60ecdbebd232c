"""Survival of patients, predicted from their slides across folds."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from spade._checks import check_idle, plural
from spade._said.lines import speaks
from spade._samples.features import Representation, named_representations
from spade.core.arrays import Floats, Rows
from spade.core.checks import check_count, check_text
from spade.core.device import resolve_device
from spade.core.errors import NonFiniteLossError
from spade.core.evaluation.folds import stratified_folds
from spade.core.rng import as_seed, numpy_stream
from spade.tl._slides.bags import Bags, BagSource, Block, read_bags
from spade.tl._slides.heads import Moments, read_moments
from spade.tl._slides.patients import Patients, read_patients
from spade.tl._slides.pooled import PATIENT, SLIDE, check_unit
from spade.tl._slides.presets import settings_with
from spade.tl._slides.risks.fit import SurvivalConfig, fit_bags, fit_linear
from spade.tl._slides.task.settings import MEAN, N_FOLDS, check_n_folds, check_used

logger = logging.getLogger("spade")
#: Most folds of a repeat, so that every fold of every repeat has a random stream of its own.
MAX_FOLDS = 10_000


@speaks
def survival(
    bags: BagSource,
    *,
    time_key: str,
    event_key: str,
    use_rep: Representation | Sequence[Representation] | Mapping[str, Representation] | None = None,
    labels: pd.DataFrame | None = None,
    slide_key: str | None = None,
    groupby: str | None = "patient",
    unit: str = SLIDE,
    head: str = SurvivalConfig.head,
    loss: str = SurvivalConfig.loss,
    n_bins: int = SurvivalConfig.n_bins,
    strength: float | str = SurvivalConfig.strength,
    n_folds: int = N_FOLDS,
    n_repeats: int = 1,
    fold_key: str | None = None,
    preset: str | None = None,
    hidden: int | Sequence[int] | None = None,
    dropout: float = SurvivalConfig.dropout,
    n_epochs: int = SurvivalConfig.n_epochs,
    lr: float | None = None,
    schedule: str | None = None,
    batch_size: int = SurvivalConfig.batch_size,
    weight_decay: float = SurvivalConfig.weight_decay,
    patience: int = SurvivalConfig.patience,
    inner_val: float = SurvivalConfig.inner_val,
    device: str = "auto",
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Predict the risk of every patient from slides, by models that never saw the patient.

    Patients are dealt to folds with like shares of events; each fold is predicted by a model that was trained on the
    others. All representations get the same folds. Nothing is written; :func:`survival_summary` computes c-indices from
    the result and :func:`spade.pl.survival` draws risk groups.

    - ``head="mean"``: patches are averaged over a slide and slides over a patient; a linear model with a ridge penalty
      is fitted to convergence. With ``loss="cox"`` its output is the log risk, so that a patient's risk is the mean
      over its slides.
    - ``"abmil"``, ``"transmil"``: attention over patches; the risk of a patient is the mean over its slides. With
      ``loss="nll"`` heads are trained slide by slide, where all slides of a patient together count as one. With
      ``loss="cox"`` they are trained on batches of patients, as the partial likelihood compares them: for the risks
      ``r`` of a batch, the mean over its events i of ``log Σ_j exp(r_j) − r_i``, where j runs over the patients still
      at risk (Breslow's ties). Slides are read twice per step, and one at a time is in memory.

    Parameters
    ----------
    bags
        Samples, every section of which is a slide; or a folder or list of feature files; or a dict of folders, one per
        representation.
    time_key
        Column with the time until the event or the end of follow-up, in any unit.
    event_key
        Column that says whether the event was seen: 1 or True, else 0 or False (censored).
    use_rep
        As in :func:`few_shot`; None for feature files.
    labels
        Table with a column ``sample`` and the columns asked for; None: they are in ``obs``, with one value per slide.
    slide_key
        ``obs`` column that names slides, where a section holds several or a slide is several sections; None: sections.
    groupby
        Column of the patient; None: every slide is of another patient.
    unit
        What a bag is. ``"slide"`` (default): a slide, and patients are means over slides as said above. ``"patient"``:
        all patches of a patient's slides, so that slides count by their patches.
    head
        ``"mean"``, ``"abmil"`` or ``"transmil"``.
    loss
        ``"nll"``: likelihood of discrete hazards; the risk is minus the expected number of bins survived. ``"cox"``:
        partial likelihood, with Efron's ties for ``"mean"``; the risk is the log risk.
    n_bins
        ``"nll"`` only: bins of time, at quantiles of the event times of the training patients.
    strength
        Ridge penalty of ``"mean"``, on features of deviation 1 divided by the root of their number; ``"cv"``: chosen
        within the training patients by cross-validated likelihood, from 0.1 to 1000.
    n_folds
        Number of folds.
    n_repeats
        How often the folds are drawn.
    fold_key
        Column with the fold of every slide, without ``n_folds``; folds are numbered in sorted order.
        None: folds are dealt.
    preset
        Attention heads only: ``"paper"`` takes ``hidden=(512, 512, 384)``, ``lr=1e-5`` and ``schedule="cosine"``, which
        the authors of SPADE state, for those of these that are not given.
    hidden, dropout, n_epochs, lr, schedule, weight_decay, patience
        Of attention heads only, as in :func:`slide_task`. Features of these heads get mean 0 and deviation 1 over the
        training slides.
    batch_size
        Attention heads with ``loss="cox"`` only: patients per step. Every batch has patients with the event.
    inner_val
        Attention heads only: share of the training patients that select the epoch. With 0, or where events are too few,
        the last epoch is kept.
    device
        Attention heads only: ``"auto"`` takes a GPU where there is one.
    table_key
        Table; may be left out when there is one.
    rng
        Seed.

    Returns
    -------
    DataFrame
        One row per ``representation``, ``repeat`` and ``patient``: ``fold``, ``n_slides``, ``time``, ``event`` and the
        out-of-fold ``risk`` (high: early event). Risks in different folds come from different models; compare them
        within a fold, as the summary does.

    Warns
    -----
    UserWarning
        Slides with neither time nor event: they are left out.

    Raises
    ------
    KeyError
        No such column or representation.
    ValueError
        Settings that head or loss do not have, negative times, times or events that are missing where the other is
        given, slides of one patient that disagree in time, event or given fold, fewer patients with events than folds,
        or too few event times for the bins.
    FloatingPointError
        Training of a head diverged.

    Examples
    --------
    >>> import numpy as np
    >>> import spade as sp
    >>> samples = sp.datasets.toy(6, 20)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> for i, sample in enumerate(samples):
    ...     sample["table"].obs["months"], sample["table"].obs["died"] = 3 * i + 1, i % 3 > 0
    >>> table = sp.tl.survival(
    ...     samples, time_key="months", event_key="died", use_rep="X_texture", loss="cox", n_folds=2
    ... )
    >>> table[["patient", "time", "event"]].head(2).values.tolist()
    [['patient_0', 1.0, False], ['patient_1', 4.0, True]]
    """
    config = settings_with(
        SurvivalConfig, preset, {"hidden": hidden, "lr": lr, "schedule": schedule}, head=head, loss=loss,
        n_bins=n_bins, strength=strength, dropout=dropout, n_epochs=n_epochs, batch_size=batch_size,
        weight_decay=weight_decay, patience=patience, inner_val=inner_val,
    )  # fmt: skip
    check_used(
        SurvivalConfig, [head], {"strength": strength},
        {"preset": preset, "hidden": hidden, "lr": lr, "schedule": schedule}, dropout=dropout, n_epochs=n_epochs,
        batch_size=batch_size, weight_decay=weight_decay, patience=patience, inner_val=inner_val,
    )  # fmt: skip
    if loss == "cox":
        check_idle([("n_bins", n_bins, SurvivalConfig.n_bins)], "loss='cox' compares times as they are")
    else:
        check_idle([("batch_size", batch_size, SurvivalConfig.batch_size)], "loss='nll' takes one slide per step")
    device = resolve_device(device) if check_text("device", device) and head != MEAN else "cpu"
    check_unit(unit, groupby)
    check_count("n_repeats", n_repeats)
    if check_n_folds(n_folds, fold_key) > MAX_FOLDS:
        raise ValueError(f"n_folds={n_folds}: expected at most {MAX_FOLDS}.")
    if fold_key is not None and n_repeats > 1:
        raise ValueError(f"n_repeats={n_repeats} with fold_key={fold_key!r}: given folds are not drawn again.")
    for name, column in (("time_key", time_key), ("event_key", event_key)):
        check_text(name, column)
    seed = as_seed(rng)
    keys = {"time_key": time_key, "event_key": event_key, "groupby": groupby, "fold_key": fold_key}
    if isinstance(bags, Iterator):
        bags = list(bags)
    source = read_bags(
        bags,
        named=None if use_rep is None else named_representations(use_rep),
        columns=keys,
        labels=labels,
        slide_key=slide_key,
        table_key=table_key,
    )
    patients = read_patients(source, keys)
    folds = [patients.fold] if patients.fold is not None else list(_deal(patients, n_folds, n_repeats, seed))
    _check_folds(patients, folds[0], fold_key)
    logger.info("%d patients, %d with the event, %d slides", len(patients), patients.event.sum(), len(patients.slides))
    return _predict(source, patients, folds, config, device, seed, unit=unit)


def _deal(patients: Patients, n_folds: int, n_repeats: int, seed: int) -> Iterator[Rows]:
    """Deal patients to folds, with like shares of events."""
    n_events = int(patients.event.sum())
    if n_events < n_folds:
        raise ValueError(
            f"n_folds={n_folds}: {n_events} of {len(patients)} patients have the event, fewer than folds. Lower "
            "n_folds=."
        )
    for repeat in range(n_repeats):
        rng = numpy_stream(seed, "survival folds", repeat)
        yield stratified_folds(np.arange(len(patients)), patients.event.astype(np.int64), 2, n_folds, rng)


def _check_folds(patients: Patients, fold: Rows, fold_key: str | None) -> None:
    """Raise unless there are two folds, and patients with events to learn from outside each."""
    numbers = np.unique(fold)
    if len(numbers) < 2 or any(not patients.event[fold != f].any() for f in numbers):
        n_events = [int(patients.event[fold == f].sum()) for f in numbers]
        raise ValueError(
            f"fold_key={fold_key!r}: {plural(len(numbers), 'fold')}, with {n_events} patients with "
            "events. Expected at least two folds with events."
        )


def _predict(
    source: Bags,
    patients: Patients,
    folds: Sequence[Rows],
    config: SurvivalConfig,
    device: str,
    seed: int,
    *,
    unit: str,
) -> pd.DataFrame:
    """Predict every fold of every repeat, in every representation."""
    facts = {
        "patient": patients.names,
        "n_slides": np.bincount(patients.of_slide),
        "time": patients.time,
        "event": patients.event,
    }
    if unit == PATIENT:
        source, patients = patients.as_bags(source)
    tables = []
    n_fits = len(source.widths) * sum(len(np.unique(fold)) for fold in folds)
    with tqdm(total=n_fits, desc="survival", unit="fit") as bar:
        for name in source.widths:
            features = _SlideFeatures(source, name, patients, read_moments(source, name, patients.slides))
            for repeat, fold in enumerate(folds):
                risk = np.full(len(patients), np.nan)
                for f in np.unique(fold).tolist():
                    train, test, index = np.flatnonzero(fold != f), np.flatnonzero(fold == f), repeat * MAX_FOLDS + f
                    try:
                        if config.head == "mean":
                            risk[test] = features.linear_risks(train, test, config, seed=seed, index=index)
                        else:
                            risk[test] = features.bag_risks(train, test, config, device=device, seed=seed, index=index)
                    except NonFiniteLossError as error:
                        raise NonFiniteLossError(f"{name}, {config.head}, fold {f}: {error}") from error
                    bar.update()
                columns = {"representation": name, "repeat": repeat, "fold": fold, **facts, "risk": risk}
                tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class _SlideFeatures:
    """The slides of all patients in one representation, with the moments of their patches."""

    bags: Bags
    name: str
    patients: Patients
    moments: Moments

    def linear_risks(self, train: Rows, test: Rows, config: SurvivalConfig, *, seed: int, index: int) -> Floats:
        """Risk of the patients ``test`` by a linear model of the patients ``train``."""
        means = self.moments.mean[self.patients.slides]
        x = self.patients.mean_over_slides(means, train)
        risk = fit_linear(config, x, self.patients.time[train], self.patients.event[train], seed=seed, index=index)
        return risk(self.patients.mean_over_slides(means, test))

    def bag_risks(
        self, train: Rows, test: Rows, config: SurvivalConfig, *, device: str, seed: int, index: int
    ) -> Floats:
        """Risk of the patients ``test`` by an attention head of the patients ``train``, the mean over their slides."""
        train_slides = self.patients.slides_of(train)
        mean, deviation = self.moments.scale(self.patients.slides[train_slides])

        def scaled(position: int) -> Block:
            bag = self.bags.read(int(self.patients.slides[position]), self.name)
            return ((bag - mean) / deviation).astype(np.float32)

        patient = self.patients.of_slide[train_slides]
        risk = fit_bags(
            config,
            lambda i: scaled(train_slides[i]),
            patient,
            self.patients.time[patient],
            self.patients.event[patient],
            width=self.bags.widths[self.name],
            device=device,
            seed=seed,
            index=index,
        )
        risks = np.full(len(self.patients.slides), np.nan)
        for position in self.patients.slides_of(test):
            risks[position] = risk(scaled(position))
        return self.patients.mean_over_slides(risks, test)
