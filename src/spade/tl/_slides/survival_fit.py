"""One training of a survival model on some patients, and the risk of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spade.core.arrays import Floats
from spade.core.checks import check_count
from spade.core.evaluation.folds import inner_split, stratified_folds
from spade.core.rng import numpy_stream, torch_stream
from spade.core.slides.heads import HEADS, make_head
from spade.core.slides.linear_survival import STRENGTHS, Linear, Loss, ridge_path
from spade.core.slides.survival_losses import cox_loss, discrete_bins, discrete_nll, discrete_risk, time_bins
from spade.core.slides.train import train_bags
from spade.tl._slides.heads import HeadConfig
from spade.tl._slides.slides import Ints

LOSSES = ("nll", "cox")
INNER_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class SurvivalConfig(HeadConfig):
    """A head, a loss and how it is trained; see :func:`spade.tl.survival`."""

    head: str = "mean"
    loss: str = "nll"
    n_bins: int = 4
    strength: float | str = "cv"
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.head not in HEADS:
            raise ValueError(f"head={self.head!r}: expected one of {', '.join(map(repr, HEADS))}.")
        if self.loss not in LOSSES:
            raise ValueError(f'loss={self.loss!r}: expected "nll" or "cox".')
        if self.loss == "cox" and self.head != "mean":
            raise ValueError(
                f'loss="cox" with head={self.head!r}: the partial likelihood compares patients, but such a head is trained on one slide '
                'at a time. Use loss="nll", or head="mean".'
            )
        if self.strength != "cv" and (isinstance(self.strength, str) or not 0 < self.strength < np.inf):
            raise ValueError(f'strength={self.strength!r}: expected a positive number or "cv".')
        check_count("n_bins", self.n_bins, 2)

    def linear(
        self, x: Floats, time: Floats, event: NDArray[np.bool_], seed: int, index: int
    ) -> Callable[[Floats], Floats]:
        """Fit patients' mean features ``(n, d)``; return a function from features to risks."""
        edges = discrete_bins(time, event, self.n_bins) if self.loss == "nll" else None
        rows = np.arange(len(x))

        def path(own: Ints, strengths: tuple[float, ...]) -> list[Linear]:
            n_out, n_terms = (1, int(event[own].sum())) if edges is None else (self.n_bins, len(own))
            loss = _loss(time[own], event[own], edges)
            return ridge_path(x[own], loss, n_out, n_terms, strengths, intercept=edges is not None)

        strength = self.strength
        if strength == "cv":
            folds = min(INNER_FOLDS, int(event.sum()))
            if folds < 2:
                raise ValueError(
                    'strength="cv" takes two patients with events to train on, but there is one. Give a number, or more patients.'
                )
            fold = stratified_folds(
                rows, event.astype(np.int64), 2, folds, numpy_stream(seed, "survival strength", index)
            )
            total = np.zeros(len(STRENGTHS))
            for f in range(folds):
                own = np.flatnonzero(fold != f)
                total += [_held_out(model(x), time, event, edges, own) for model in path(own, STRENGTHS)]
            strength = STRENGTHS[int(total.argmin())]
        (model,) = path(rows, (float(strength),))
        return lambda others: _risk(torch.as_tensor(model(others)), edges)

    def bags(
        self,
        read: Callable[[int], NDArray[np.float32]],
        d_in: int,
        patient: Ints,
        time: Floats,
        event: NDArray[np.bool_],
        seed: int,
        index: int,
    ) -> Callable[[NDArray[np.float32]], float]:
        """Train on slides, given per slide the patient, its time and event; return a function from a bag to its risk.

        Every patient counts alike, however many slides it has.
        """
        last = np.unique(patient, return_index=True)[1]
        bins = time_bins(time, discrete_bins(time[last], event[last], self.n_bins))
        weight = len(patient) / len(last) / np.bincount(patient)[patient]
        held = None
        if self.inner_val:
            rng = numpy_stream(seed, "survival validation", index)
            held = inner_split(patient, event.astype(np.int64), 2, self.inner_val, rng)
        held = np.zeros(len(patient), dtype=bool) if held is None else held
        head = make_head(
            self.head, d_in, self.n_bins, hidden=self.hidden, dropout=self.dropout,
            generator=torch_stream(seed, "survival head", index),
        )  # fmt: skip

        def loss(outputs: torch.Tensor, i: int) -> torch.Tensor:
            own = torch.as_tensor(bins[i : i + 1]), torch.as_tensor(event[i : i + 1])
            return float(weight[i]) * discrete_nll(outputs[None], *(one.to(outputs.device) for one in own))

        train_bags(
            lambda i: torch.from_numpy(read(i)), loss, np.flatnonzero(~held).tolist(), np.flatnonzero(held).tolist(), head,
            n_epochs=self.n_epochs, lr=self.lr, weight_decay=self.weight_decay, patience=self.patience, device=self.device,
            seed=int(numpy_stream(seed, "survival training", index).integers(2**62)),
        )  # fmt: skip

        def risk(bag: NDArray[np.float32]) -> float:
            with torch.no_grad():
                return float(discrete_risk(head(torch.from_numpy(bag).to(self.device))[0].double()))

        return risk


def _loss(time: Floats, event: NDArray[np.bool_], edges: Floats | None) -> Loss:
    seen = torch.as_tensor(event)
    if edges is None:
        times = torch.as_tensor(time)
        return lambda outputs: cox_loss(outputs[:, 0], times, seen)
    bins = torch.as_tensor(time_bins(time, edges))
    return lambda outputs: discrete_nll(outputs, bins, seen)


def _held_out(outputs: Floats, time: Floats, event: NDArray[np.bool_], edges: Floats | None, own: Ints) -> float:
    """Summed loss that the rows other than ``own`` add, with outputs of a model of ``own`` (Verweij & van Houwelingen 1993 for Cox)."""

    def total(rows: Ints) -> float:
        n_terms = len(rows) if edges is not None else int(event[rows].sum())
        return n_terms * float(_loss(time[rows], event[rows], edges)(torch.as_tensor(outputs[rows])))

    return total(np.arange(len(time))) - total(own)


def _risk(outputs: torch.Tensor, edges: Floats | None) -> Floats:
    return (outputs[:, 0] if edges is None else discrete_risk(outputs)).numpy()
