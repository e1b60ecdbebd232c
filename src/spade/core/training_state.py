"""The folder in which a training keeps its state, so that a kill at any moment loses little and changes nothing."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from spade.core.files import write_atomically

SETTINGS = "training.json"
#: Seconds between two states of an expert.
SECONDS = 60.0


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


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
