"""The state of every expert in training, kept so that a kill at any moment loses little and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spade.core.experts.loop import Run
from spade.core.experts.parameters import ExpertParameters
from spade.core.training_state import SECONDS, StateFolder


class Checkpoints(StateFolder):
    """One file per expert."""

    def path(self, expert: int) -> Path:
        """File of one expert."""
        return self.folder / f"expert_{expert:04d}.npz"

    def epochs(self, experts: Iterable[int]) -> int:
        """Number of epochs that some experts have finished."""
        paths = [self.path(expert) for expert in experts]
        return sum(len(self._read(path)[0]["train_loss"]) for path in paths if path.exists())

    def keeper(self, flat: ExpertParameters) -> Callable[[Run, int, bool], None]:
        """Return a function that saves a run now and then, and once it has finished."""
        last: dict[int, float] = {}

        def keep(run: Run, row: int, finished: bool) -> None:
            now = time.monotonic()
            if finished or now - last.setdefault(run.expert, now) >= SECONDS:
                self.save(run, flat, row)
                last[run.expert] = now

        return keep

    def save(self, run: Run, flat: ExpertParameters, row: int) -> None:
        """Save where an expert is."""
        arrays: dict[str, Tensor] = {name: getattr(flat, name)[row] for name in ("values", "first", "second")}
        arrays["dropout"] = run.dropout.get_state()
        arrays["shuffling"] = run.shuffling.get_state()
        if run.drawn_from is not None and run.order is not None:
            arrays["drawn_from"] = run.drawn_from
        if run.best is not None:
            arrays["best"] = run.best
        facts = {name: getattr(run, name) for name in ("step", "train_loss", "val_loss", "best_epoch")}
        facts["total"] = float(run.total)
        self.write(self.path(run.expert), facts, arrays)

    def restore(self, run: Run) -> dict[str, Tensor]:
        """Put a run where it was saved, and return its rows; empty if it was not."""
        path = self.path(run.expert)
        if not path.exists():
            return {}
        facts, state = self._read(path, "values", "first", "second", "dropout", "shuffling", "drawn_from", "best")
        run.step, run.total, run.best_epoch = facts["step"], facts["total"], facts["best_epoch"]
        run.train_loss, run.val_loss = facts["train_loss"], facts["val_loss"]
        rows = {name: torch.from_numpy(state[name]) for name in ("values", "first", "second")}
        run.best = torch.from_numpy(state["best"]) if "best" in state else None
        run.dropout.set_state(torch.from_numpy(state["dropout"]))
        run.order = None
        if "drawn_from" in state:  # in the middle of an epoch: its order is drawn again from where it was drawn
            run.drawn_from = torch.from_numpy(state["drawn_from"])
            run.shuffling.set_state(run.drawn_from)
        else:
            run.shuffling.set_state(torch.from_numpy(state["shuffling"]))
        return rows

    def result(self, expert: int) -> tuple[Tensor, list[float], list[float], int]:
        """Return the kept weights of an expert that has been trained, its losses and its best epoch."""
        facts, state = self._read(self.path(expert), "best")
        return torch.from_numpy(state["best"]), facts["train_loss"], facts["val_loss"], facts["best_epoch"]

    def _read(self, path: Path, *names: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the facts of a file, and of the arrays those that there are."""
        needed = {"values", "first", "second", "dropout", "shuffling"} & set(names)
        return self.read(path, names, needed, ("step", "total", "best_epoch", "train_loss", "val_loss"))
