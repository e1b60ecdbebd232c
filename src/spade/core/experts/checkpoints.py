"""Checkpoints of experts in training, from which an interrupted training continues with the same result."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spade.core.experts.loop import Keep, Run
from spade.core.experts.parameters import ExpertParameters
from spade.core.training_state import SECONDS, StateFolder

#: What the file of an expert must say.
FACTS = ("expert", "step", "total", "best_epoch", "train_loss", "val_loss")


class Checkpoints(StateFolder):
    """A folder with one file per expert."""

    def path(self, expert: int) -> Path:
        """Return the file of one expert."""
        return self.folder / f"expert_{expert:04d}.npz"

    def epochs(self, experts: Iterable[int]) -> int:
        """Return the number of epochs that some experts have finished, added up."""
        paths = [self.path(expert) for expert in experts]
        return sum(len(self._read(path)[0]["train_loss"]) for path in paths if path.exists())

    def keeper(self, parameters: ExpertParameters) -> Keep:
        """Return a function that saves the state of a run every ``SECONDS``, and when it has finished."""
        last_saved: dict[int, float] = {}

        def keep(run: Run, row: int, *, finished: bool) -> None:
            now = time.monotonic()
            if finished or now - last_saved.setdefault(run.expert, now) >= SECONDS:
                self.save(run, parameters, row)
                last_saved[run.expert] = now

        return keep

    def save(self, run: Run, parameters: ExpertParameters, row: int) -> None:
        """Save the state of an expert, whose parameters are one row."""
        arrays: dict[str, Tensor] = {name: getattr(parameters, name)[row] for name in ("values", "first", "second")}
        arrays["dropout"] = run.dropout.get_state()
        arrays["shuffling"] = run.shuffling.get_state()
        if run.drawn_from is not None and run.order is not None:
            arrays["drawn_from"] = run.drawn_from
        if run.best is not None:
            arrays["best"] = run.best
        facts = {name: getattr(run, name) for name in ("step", "train_loss", "val_loss", "best_epoch")}
        facts |= {"expert": run.expert, "total": float(run.total)}
        self.write(self.path(run.expert), facts, arrays)

    def restore(self, run: Run) -> dict[str, Tensor]:
        """Restore the saved state of a run, and return its parameters and moments; empty if nothing was saved."""
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
        if "drawn_from" in state:  # in the middle of an epoch: draw its order again from the same state
            run.drawn_from = torch.from_numpy(state["drawn_from"])
            run.shuffling.set_state(run.drawn_from)
        else:
            run.shuffling.set_state(torch.from_numpy(state["shuffling"]))
        return rows

    def result(self, expert: int) -> tuple[Tensor, list[float], list[float], int]:
        """Return the weights, training and validation losses and best epoch of an expert that has been trained."""
        facts, state = self._read(self.path(expert), "best")
        return torch.from_numpy(state["best"]), facts["train_loss"], facts["val_loss"], facts["best_epoch"]

    def _read(self, path: Path, *names: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the facts of the file of an expert, and those of the named arrays that it has."""
        needed = {"values", "first", "second", "dropout", "shuffling"} & set(names)
        facts, arrays = self.read(path, names, needed, FACTS)
        if path != self.path(facts["expert"]):
            raise ValueError(
                f"{path} holds the state of expert {facts['expert']}; was it renamed or copied? Delete it to train "
                "this expert from the start."
            )
        return facts, arrays
