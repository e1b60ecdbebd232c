"""Train a survival model on some patients; it predicts the risk of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spade.core.arrays import Floats, Rows
from spade.core.checks import brief, check_choice, check_count, is_number
from spade.core.evaluation.folds import inner_split, stratified_folds
from spade.core.rng import numpy_stream, torch_stream
from spade.core.slides.epochs import EpochSettings
from spade.core.slides.heads import HEADS, make_head
from spade.core.slides.linear_survival import STRENGTHS, Linear, Loss, ridge_path
from spade.core.slides.survival_losses import cox_loss, discrete_bins, discrete_nll, discrete_risk, time_bins
from spade.core.slides.train import train_bags
from spade.core.slides.train_together import deal_with_events, train_together
from spade.tl._slides.bags import Block
from spade.tl._slides.task.settings import HeadConfig

LOSSES = ("nll", "cox")
INNER_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class SurvivalConfig(HeadConfig):
    """A head, a loss and how it is trained; see :func:`spade.tl.survival`."""

    head: str = "mean"
    loss: str = "nll"
    n_bins: int = 4
    strength: float | str = "cv"
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        check_choice("head", self.head, HEADS)
        check_choice("loss", self.loss, LOSSES)
        check_count("n_bins", self.n_bins, 2)
        check_count("batch_size", self.batch_size, 2)
        if isinstance(self.strength, str) and self.strength == "cv":
            return
        if not is_number(self.strength) or float(self.strength) <= 0:
            raise ValueError(f'strength={brief(self.strength)}: expected a positive number or "cv".')


def fit_linear(
    config: SurvivalConfig, x: Floats, time: Floats, event: NDArray[np.bool_], *, seed: int, index: int
) -> Callable[[Floats], Floats]:
    """Fit patients' mean features ``(n, d)``; return a function from features to risks.

    ``index`` numbers the training, so that each has random streams of its own.
    """
    edges = discrete_bins(time, event, config.n_bins) if config.loss == "nll" else None

    def path(rows: Rows, strengths: tuple[float, ...]) -> list[Linear]:
        loss = _mean_loss(time[rows], event[rows], edges)
        n_out, n_terms = (1, int(event[rows].sum())) if edges is None else (config.n_bins, len(rows))
        return ridge_path(x[rows], loss, n_out, n_terms, strengths, intercept=edges is not None)

    all_rows = np.arange(len(x))
    strength = config.strength
    if strength == "cv":
        n_folds = min(INNER_FOLDS, int(event.sum()))
        if n_folds < 2:
            raise ValueError(
                'strength="cv" needs at least two training patients with events, but there is one. Give a number, or '
                "add "
                "patients."
            )
        rng = numpy_stream(seed, "survival strength", index)
        fold = stratified_folds(all_rows, event.astype(np.int64), 2, n_folds, rng)
        total = np.zeros(len(STRENGTHS))
        for f in range(n_folds):
            rows = np.flatnonzero(fold != f)
            total += [_held_out_loss(model(x), time, event, edges, rows) for model in path(rows, STRENGTHS)]
        strength = STRENGTHS[int(total.argmin())]
    (model,) = path(all_rows, (float(strength),))
    return lambda others: _risk(torch.as_tensor(model(others)), edges)


def fit_bags(
    config: SurvivalConfig,
    read: Callable[[int], Block],
    patient: Rows,
    time: Floats,
    event: NDArray[np.bool_],
    *,
    width: int,
    device: str,
    seed: int,
    index: int,
) -> Callable[[Block], float]:
    """Train on slides, given per slide the patient, its time and event; return a function from a bag to its risk.

    Every patient counts alike, however many slides it has. ``index`` numbers the training, so that each has random
    streams of its own.
    """
    selecting = None
    if config.inner_val:
        rng = numpy_stream(seed, "survival validation", index)
        selecting = inner_split(patient, event.astype(np.int64), 2, config.inner_val, rng)
    if selecting is None:
        selecting = np.zeros(len(patient), dtype=bool)
    is_cox = config.loss == "cox"
    head = make_head(
        config.head, width, 1 if is_cox else config.n_bins, hidden=config.hidden, dropout=config.dropout,
        generator=torch_stream(seed, "survival head", index),
    )  # fmt: skip

    training = _Training(config, lambda i: torch.from_numpy(read(i)), patient, time, event)
    train_seed = int(numpy_stream(seed, "survival training", index).integers(2**62))
    (training.cox if is_cox else training.nll)(head, ~selecting, seed=train_seed, device=device)

    def risk(bag: Block) -> float:
        with torch.no_grad():
            outputs = head(torch.from_numpy(bag).to(device))[0].double()
            return float(outputs[0] if is_cox else discrete_risk(outputs))

    return risk


@dataclass(frozen=True)
class _Training:
    """Slides to train a head on, with the patient of each, its time and event ``(n,)``."""

    config: SurvivalConfig
    read: Callable[[int], torch.Tensor]
    patient: Rows
    time: Floats
    event: NDArray[np.bool_]

    def nll(self, head: torch.nn.Module, learning: NDArray[np.bool_], *, seed: int, device: str) -> None:
        """Discrete hazards, one slide per step; all slides of a patient together weigh as much as one patient."""
        config, first = self.config, np.unique(self.patient, return_index=True)[1]
        bins = time_bins(self.time, discrete_bins(self.time[first], self.event[first], config.n_bins))
        weight = len(self.patient) / len(first) / np.bincount(self.patient)[self.patient]

        def loss(outputs: torch.Tensor, i: int) -> torch.Tensor:
            bin_of_slide = torch.as_tensor(bins[i : i + 1]).to(outputs.device)
            seen = torch.as_tensor(self.event[i : i + 1]).to(outputs.device)
            return float(weight[i]) * discrete_nll(outputs[None], bin_of_slide, seen)

        train_bags(
            self.read, loss, np.flatnonzero(learning).tolist(), np.flatnonzero(~learning).tolist(), head,
            n_epochs=config.n_epochs, lr=config.lr, weight_decay=config.weight_decay, patience=config.patience,
            schedule=config.schedule, seed=seed, device=device,
        )  # fmt: skip

    def cox(self, head: torch.nn.Module, learning: NDArray[np.bool_], *, seed: int, device: str) -> None:
        """Breslow's partial likelihood over a batch of patients, whose log risk is the mean over their slides."""
        config, slides = self.config, np.flatnonzero(learning)

        def loss(outputs: torch.Tensor, bags: list[int]) -> torch.Tensor:
            _, first, number = np.unique(self.patient[bags], return_index=True, return_inverse=True)
            rows = np.asarray(bags)[first]
            of_patient = torch.as_tensor(number).to(outputs.device)
            total = outputs.new_zeros(len(first)).index_add(0, of_patient, outputs[:, 0])
            time, event = (torch.as_tensor(values[rows]).to(outputs.device) for values in (self.time, self.event))
            return cox_loss(total / torch.bincount(of_patient), time, event, ties="breslow")

        def deal(rng: np.random.Generator) -> list[list[int]]:
            batches = deal_with_events(self.patient[slides], self.event[slides], config.batch_size, rng)
            return [slides[batch].tolist() for batch in batches]

        settings = EpochSettings(
            n_epochs=config.n_epochs, lr=config.lr, weight_decay=config.weight_decay, patience=config.patience,
            schedule=config.schedule,
        )  # fmt: skip
        train_together(
            self.read, loss, deal, np.flatnonzero(~learning).tolist(), head, settings=settings, seed=seed, device=device
        )


def _mean_loss(time: Floats, event: NDArray[np.bool_], edges: Floats | None) -> Loss:
    """Loss over patients: discrete hazards between ``edges``, or Cox without."""
    seen = torch.as_tensor(event)
    if edges is None:
        times = torch.as_tensor(time)
        return lambda outputs: cox_loss(outputs[:, 0], times, seen)
    bins = torch.as_tensor(time_bins(time, edges))
    return lambda outputs: discrete_nll(outputs, bins, seen)


def _held_out_loss(outputs: Floats, time: Floats, event: NDArray[np.bool_], edges: Floats | None, rows: Rows) -> float:
    """Summed loss that all other rows add to that of ``rows``, with outputs of a model that was trained on ``rows``.

    For Cox this is the cross-validated partial likelihood of Verweij & van Houwelingen (1993).
    """

    def total(some_rows: Rows) -> float:
        n_terms = len(some_rows) if edges is not None else int(event[some_rows].sum())
        loss = _mean_loss(time[some_rows], event[some_rows], edges)
        return n_terms * float(loss(torch.as_tensor(outputs[some_rows])))

    return total(np.arange(len(time))) - total(rows)


def _risk(outputs: torch.Tensor, edges: Floats | None) -> Floats:
    return (outputs[:, 0] if edges is None else discrete_risk(outputs)).numpy()
