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
from spade.core.slides.heads import HEADS, make_head
from spade.core.slides.linear_survival import STRENGTHS, Linear, Loss, ridge_path
from spade.core.slides.survival_losses import cox_loss, discrete_bins, discrete_nll, discrete_risk, time_bins
from spade.core.slides.train import train_bags
from spade.tl._slides.bags import Block
from spade.tl._slides.heads import HeadConfig

LOSSES = ("nll", "cox")
INNER_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class SurvivalConfig(HeadConfig):
    """A head, a loss and how it is trained; see :func:`spade.tl.survival`."""

    head: str = "mean"
    loss: str = "nll"
    n_bins: int = 4
    strength: float | str = "cv"

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        check_choice("head", self.head, HEADS)
        check_choice("loss", self.loss, LOSSES)
        check_count("n_bins", self.n_bins, 2)
        if self.loss == "cox" and self.head != "mean":
            raise ValueError(
                f'loss="cox" with head={self.head!r}: the partial likelihood compares patients, but such a head is '
                'trained on one slide at a time. Use loss="nll", or head="mean".'
            )
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
    first = np.unique(patient, return_index=True)[1]
    bins = time_bins(time, discrete_bins(time[first], event[first], config.n_bins))
    weight = len(patient) / len(first) / np.bincount(patient)[patient]
    selecting = None
    if config.inner_val:
        rng = numpy_stream(seed, "survival validation", index)
        selecting = inner_split(patient, event.astype(np.int64), 2, config.inner_val, rng)
    if selecting is None:
        selecting = np.zeros(len(patient), dtype=bool)
    head = make_head(
        config.head, width, config.n_bins, hidden=config.hidden, dropout=config.dropout,
        generator=torch_stream(seed, "survival head", index),
    )  # fmt: skip

    def loss(outputs: torch.Tensor, i: int) -> torch.Tensor:
        bin_of_slide = torch.as_tensor(bins[i : i + 1]).to(outputs.device)
        seen = torch.as_tensor(event[i : i + 1]).to(outputs.device)
        return float(weight[i]) * discrete_nll(outputs[None], bin_of_slide, seen)

    learning, validating = np.flatnonzero(~selecting).tolist(), np.flatnonzero(selecting).tolist()
    train_bags(
        lambda i: torch.from_numpy(read(i)), loss, learning, validating, head, n_epochs=config.n_epochs, lr=config.lr,
        weight_decay=config.weight_decay, patience=config.patience, device=device,
        seed=int(numpy_stream(seed, "survival training", index).integers(2**62)),
    )  # fmt: skip

    def risk(bag: Block) -> float:
        with torch.no_grad():
            return float(discrete_risk(head(torch.from_numpy(bag).to(device))[0].double()))

    return risk


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
