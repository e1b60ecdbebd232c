"""The state of every expert in training, kept so that a kill at any moment loses little and changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spade.core.flat import FlatExperts
from spade.core.together import Run

SETTINGS = "training.json"
#: Seconds between two states of an expert.
SECONDS = 60.0
CHUNK = 1 << 26


def digest(*arrays: np.ndarray) -> str:
    """First 16 hex digits of the SHA-256 of arrays, read piece by piece."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.shape}{array.dtype}".encode())
        flat = array.reshape(-1)
        for start in range(0, len(flat), CHUNK):
            found.update(np.ascontiguousarray(flat[start : start + CHUNK]).view(np.uint8).data)
    return found.hexdigest()[:16]


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that it is there whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class StateFolder:
    """A folder with states of one training, which runs once at a time, in one process or many.

    Parameters
    ----------
    folder
        Made if it is not there. If it is of a training with other settings or data, that is an error.
    settings
        What makes this training what it is: flat, JSON-able. None: another process of this training has looked.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any] | None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if settings is not None:
            self._claim(settings)

    def _claim(self, settings: Mapping[str, Any]) -> None:
        """See that the folder is of this training, and clear away what a killed process left."""
        folder = self.folder
        for part in folder.glob(".*.part"):  # of a process that was killed while it wrote
            part.unlink(missing_ok=True)
        wanted = json.loads(json.dumps(dict(settings)))
        path = folder / SETTINGS
        if not path.exists():
            if others := sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(".")):
                raise ValueError(
                    f"checkpoint_dir={str(folder)!r} holds {', '.join(others[:5])} but no {SETTINGS}: it is not of a training. "
                    "Choose an empty or a new folder."
                )
            write_atomically(path, lambda part: _write_text(part, json.dumps(wanted, indent=1) + "\n"))
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} cannot be read ({error}). Choose another checkpoint_dir.") from error
        if found != wanted:
            differing = [
                f"{name}: {found.get(name)!r} there, {wanted.get(name)!r} now"
                for name in sorted({*found, *wanted})
                if found.get(name) != wanted.get(name)
            ]
            raise ValueError(
                f"checkpoint_dir={str(folder)!r} is of another training ({'; '.join(differing)}). Choose another folder, or repeat "
                "the call it was made by."
            )

    def write(self, path: Path, facts: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> None:
        """Write facts and arrays into one file, whole or not at all."""
        plain = {name: value.detach().cpu().numpy() for name, value in arrays.items()}

        def write(part: Path) -> None:
            with part.open("wb") as file:
                np.savez(file, allow_pickle=False, facts=np.array(json.dumps(facts)), **plain)

        write_atomically(path, write)

    def read(
        self, path: Path, names: Iterable[str] | None, needed: Iterable[str], facts: Iterable[str]
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the facts of a file and those of some arrays (None: all) that there are; what is ``needed`` must be."""
        try:
            with np.load(path, allow_pickle=False) as file:
                wanted = [name for name in file.files if name != "facts"] if names is None else names
                state = {name: file[name] for name in wanted if name in file.files}
                found = json.loads(str(file["facts"]))
            missing = sorted(set(facts) - set(found)) + sorted(set(needed) - set(state))
            if missing:
                raise ValueError(f"{', '.join(missing)} missing")
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} cannot be read ({error}); was it cut off or edited? Delete it to train anew."
            ) from error
        return found, state


class Checkpoints(StateFolder):
    """One file per expert."""

    def path(self, expert: int) -> Path:
        """File of one expert."""
        return self.folder / f"expert_{expert:04d}.npz"

    def epochs(self, experts: Iterable[int]) -> int:
        """Number of epochs that some experts have finished."""
        paths = [self.path(expert) for expert in experts]
        return sum(len(self._read(path)[0]["train_loss"]) for path in paths if path.exists())

    def keeper(self, flat: FlatExperts) -> Callable[[Run, int, bool], None]:
        """Return a function that saves a run now and then, and once it has finished."""
        last: dict[int, float] = {}

        def keep(run: Run, row: int, finished: bool) -> None:
            now = time.monotonic()
            if finished or now - last.setdefault(run.expert, now) >= SECONDS:
                self.save(run, flat, row)
                last[run.expert] = now

        return keep

    def save(self, run: Run, flat: FlatExperts, row: int) -> None:
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


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
