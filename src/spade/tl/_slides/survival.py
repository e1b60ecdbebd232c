"""Survival of patients from their slides, predicted across folds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from spade._samples.features import Representation, named_representations
from spade.core.arrays import Floats, scale_of
from spade.core.checks import check_count
from spade.core.device import resolve_device
from spade.core.errors import NonFiniteLossError
from spade.core.evaluation.folds import stratified_folds
from spade.core.rng import as_seed, numpy_stream
from spade.tl._slides.bags import Bags, BagSource, read_bags
from spade.tl._slides.patients import Patients, read_patients
from spade.tl._slides.survival_fit import SurvivalConfig

logger = logging.getLogger("spade")
#: Most folds of a repeat, so that every fold of every repeat has a random stream of its own.
MOST_FOLDS = 10_000


def survival(
    bags: BagSource,
    *,
    time_key: str,
    event_key: str,
    use_rep: Representation | Sequence[Representation] | Mapping[str, Representation] | None = None,
    labels: pd.DataFrame | None = None,
    slide_key: str | None = None,
    groupby: str | None = "patient",
    head: str = SurvivalConfig.head,
    loss: str = SurvivalConfig.loss,
    n_bins: int = SurvivalConfig.n_bins,
    strength: float | str = SurvivalConfig.strength,
    n_folds: int = 5,
    n_repeats: int = 1,
    fold_key: str | None = None,
    hidden: int = SurvivalConfig.hidden,
    dropout: float = SurvivalConfig.dropout,
    n_epochs: int = SurvivalConfig.n_epochs,
    lr: float = SurvivalConfig.lr,
    weight_decay: float = SurvivalConfig.weight_decay,
    patience: int = SurvivalConfig.patience,
    inner_val: float = SurvivalConfig.inner_val,
    device: str = "auto",
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Predict the risk of every patient from slides, by models that never saw the patient.

    Patients are dealt to folds with like shares of events; each fold is predicted by a model that was trained on the others. All
    representations get the same folds. Nothing is written; :func:`survival_summary` makes c-indices of the result and
    :func:`spade.pl.survival` draws risk groups.

    - ``head="mean"``: patches are averaged over a slide and slides over a patient; a linear model with a ridge penalty, fitted to
      convergence. With ``loss="cox"`` its output is the log risk, so that a patient's risk is the mean over its slides.
    - ``"abmil"``, ``"transmil"``: attention over patches, trained slide by slide, a patient's slides together counting as one; a patient has the
      mean risk of its slides. Only with ``loss="nll"``, as the partial likelihood of Cox compares patients with each other.

    Parameters
    ----------
    bags
        Samples, every section of which is a slide; or a folder or list of feature files; or a dict of folders, one per representation.
    time_key, event_key
        Columns with the time until event or end of follow-up (any unit), and whether the event was seen: 1 or True, else 0 or False
        (censored).
    use_rep
        As in :func:`few_shot`; None for feature files.
    labels
        Table with a column ``sample`` and the columns asked for; None: they are in ``obs``, with one value per slide.
    slide_key
        ``obs`` column that names slides, where a section holds several or a slide is several sections; None: sections.
    groupby
        Column of the patient; None: every slide is of another patient.
    head
        ``"mean"``, ``"abmil"`` or ``"transmil"``.
    loss
        ``"nll"``: likelihood of discrete hazards; the risk is minus the expected number of bins survived. ``"cox"``: partial likelihood with
        Efron's ties; the risk is the log risk.
    n_bins
        Time bins of ``"nll"``: quantiles of the event times of the training patients.
    strength
        Ridge penalty of ``"mean"``, on features of deviation 1 divided by the root of their number; ``"cv"``: chosen within the training patients
        by cross-validated likelihood, from 0.1 to 1000.
    n_folds, n_repeats
        Folds, and how often they are drawn.
    fold_key
        Column with the fold of every slide; ``n_folds`` then has no meaning, and folds are numbered in sorted order. None: they are dealt.
    hidden, dropout, n_epochs, lr, weight_decay, patience
        Of ``"abmil"`` and ``"transmil"``: width, and AdamW on one slide a step. Features get mean 0 and deviation 1 over the training slides.
    inner_val
        Of these heads: share of the training patients that select the epoch; 0, or where events are too few: the last is kept.
    device
        Of these heads: ``"auto"`` takes a GPU where there is one.
    table_key
        Table; may be left out when there is one.
    rng
        Seed.

    Returns
    -------
    DataFrame
        One row per ``representation``, ``repeat`` and ``patient``: ``fold``, ``n_slides``, ``time``, ``event`` and the out-of-fold ``risk`` (high:
        early event). Risks of different folds are of different models; compare them within a fold, as the summary does.

    Warns
    -----
    UserWarning
        Slides with neither time nor event: they are left out.

    Raises
    ------
    KeyError
        No such column or representation.
    ValueError
        Negative times, times or events that are missing where the other is given, slides of one patient that disagree in time, event or
        given fold, fewer patients with events than folds, or too few event times for the bins.
    NonFiniteLossError
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
    fit = SurvivalConfig(
        head=head, loss=loss, n_bins=n_bins, strength=strength, hidden=hidden, dropout=dropout, n_epochs=n_epochs, lr=lr,
        weight_decay=weight_decay, patience=patience, inner_val=inner_val,
        device=resolve_device(device) if head != "mean" else "cpu",
    )  # fmt: skip
    check_count("n_repeats", n_repeats)
    if not 2 <= check_count("n_folds", n_folds, 2) <= MOST_FOLDS:
        raise ValueError(f"n_folds={n_folds}: expected at most {MOST_FOLDS}.")
    if fold_key is not None and n_repeats > 1:
        raise ValueError(f"n_repeats={n_repeats} with fold_key={fold_key!r}: given folds are not drawn again.")
    seed = as_seed(rng)
    keys = {"time_key": time_key, "event_key": event_key, "groupby": groupby, "fold_key": fold_key}
    named = None if use_rep is None else named_representations(use_rep)
    if isinstance(bags, Iterator):
        bags = list(bags)
    source = read_bags(bags, named=named, columns=keys, labels=labels, slide_key=slide_key, table_key=table_key)
    patients = read_patients(source, keys)
    folds = [patients.fold] if patients.fold is not None else list(_folds(patients, n_folds, n_repeats, seed))
    _check_folds(patients, folds[0], fold_key)
    logger.info(
        "%d patients, %d with the event, %d slides", len(patients.patients), patients.event.sum(), len(patients.slides)
    )
    facts = {
        "patient": patients.patients,
        "n_slides": np.bincount(patients.of_slide),
        "time": patients.time,
        "event": patients.event,
    }
    found = []
    with tqdm(
        total=len(source.widths) * sum(len(np.unique(fold)) for fold in folds), desc="survival", unit="fit"
    ) as bar:
        for name in source.widths:
            risks = _Risks(source, name, patients, fit, seed)
            for repeat, fold in enumerate(folds):
                risk = np.full(len(patients.patients), np.nan)
                for f in np.unique(fold).tolist():
                    test = np.flatnonzero(fold == f)
                    try:
                        risk[test] = risks(np.flatnonzero(fold != f), test, repeat * MOST_FOLDS + f)
                    except NonFiniteLossError as error:
                        raise NonFiniteLossError(f"{name}, {head}, fold {f}: {error}") from error
                    bar.update()
                found.append(
                    pd.DataFrame({"representation": name, "repeat": repeat, "fold": fold, **facts, "risk": risk})
                )
    return pd.concat(found, ignore_index=True)


def _folds(patients: Patients, n_folds: int, n_repeats: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Deal patients to folds, with like shares of events."""
    n_events = int(patients.event.sum())
    if n_events < n_folds:
        raise ValueError(
            f"n_folds={n_folds}: {n_events} of {len(patients.patients)} patients have the event, fewer than folds. Lower n_folds=."
        )
    for repeat in range(n_repeats):
        generator = numpy_stream(seed, "survival folds", repeat)
        yield stratified_folds(
            np.arange(len(patients.patients)), patients.event.astype(np.int64), 2, n_folds, generator
        )


def _check_folds(patients: Patients, fold: NDArray[np.int64], fold_key: str | None) -> None:
    """Raise unless there are two folds, and events to learn from beside each."""
    numbers = np.unique(fold)
    if len(numbers) < 2 or any(not patients.event[fold != f].any() for f in numbers):
        raise ValueError(
            f"fold_key={fold_key!r}: {len(numbers)} folds, with {[int(patients.event[fold == f].sum()) for f in numbers]} patients with "
            "events. Expected at least two folds with events."
        )


class _Risks:
    """Risks in one representation: trains on some patients and predicts others; means over slides are read once."""

    def __init__(self, source: Bags, name: str, patients: Patients, fit: SurvivalConfig, seed: int) -> None:
        self.read: Callable[[int], NDArray[np.float32]] = lambda i: source.read(int(patients.slides[i]), name)
        self.patients, self.fit, self.seed, self.width = patients, fit, seed, source.widths[name]
        n = len(patients.slides)
        self.mean, self.variance = np.empty((n, self.width)), np.empty((n, self.width))
        for i in tqdm(range(n), desc=f"reading {name}", unit="slide", leave=False):
            bag = self.read(i)
            self.mean[i], self.variance[i] = bag.mean(0, dtype=np.float64), bag.var(0, dtype=np.float64)

    def __call__(self, train: NDArray[np.int64], test: NDArray[np.int64], index: int) -> Floats:
        """Return the risk of the patients ``test`` by a model of ``train``."""
        return (self._linear if self.fit.head == "mean" else self._bags)(train, test, index)

    def _patients(self, patients: NDArray[np.int64], values: Floats) -> Floats:
        """Mean over the slides of each patient."""
        return np.stack([values[self.patients.of_slide == one].mean(0) for one in patients])

    def _linear(self, train: NDArray[np.int64], test: NDArray[np.int64], index: int) -> Floats:
        time, event = self.patients.time[train], self.patients.event[train]
        risk = self.fit.linear(self._patients(train, self.mean), time, event, self.seed, index)
        return risk(self._patients(test, self.mean))

    def _bags(self, train: NDArray[np.int64], test: NDArray[np.int64], index: int) -> Floats:
        own = self.patients.slides_of(train)
        mean = self.mean[own].mean(0)
        deviation = scale_of(mean, self.variance[own].mean(0) + self.mean[own].var(0))

        def scaled(i: int) -> NDArray[np.float32]:
            return ((self.read(i) - mean) / deviation).astype(np.float32)

        patient = self.patients.of_slide[own]
        time, event = self.patients.time[patient], self.patients.event[patient]
        risk = self.fit.bags(lambda i: scaled(own[i]), self.width, patient, time, event, self.seed, index)
        found = np.full(len(self.patients.slides), np.nan)
        for i in self.patients.slides_of(test):
            found[i] = risk(scaled(i))
        return self._patients(test, found)
