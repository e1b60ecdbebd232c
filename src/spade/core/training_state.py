"""The folder of a training's state, from which an interrupted training continues with the same result."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from spade.core.files import digest, parse_json, read_small_text, write_atomically

#: File of the settings that identify a training.
SETTINGS = "training.json"
#: Entries of the facts of a file that tell what it belongs to and whether it is whole.
TRAINING, DIGEST = "training", "digest"
#: Least time between two saved states of an expert.
SECONDS = 60.0


class StateFolder:
    """A folder with the states of one training. The training may use many processes, but must not run twice at a time.

    Parameters
    ----------
    folder
        Created if it does not exist. A folder of a training with other settings or data raises a ValueError.
    settings
        Settings and data that identify the training: flat, of types that JSON can hold. None skips the check, in
        processes that the training has started.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any] | None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if settings is not None:
            self._claim(settings)

    def _claim(self, settings: Mapping[str, Any]) -> None:
        """Check that the folder belongs to this training, and delete unfinished files."""
        folder = self.folder
        for part in folder.glob(".*.part"):  # left by a process that was killed while writing
            part.unlink(missing_ok=True)
        wanted = json.loads(json.dumps(dict(settings)))
        path = folder / SETTINGS
        if not path.exists():
            if others := sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(".")):
                raise ValueError(
                    f"checkpoint_dir={str(folder)!r} holds {', '.join(others[:5])} but no {SETTINGS}, so it does not "
                    "belong to a training. Choose an empty or a new folder."
                )
            write_atomically(path, lambda part: _write_text(part, json.dumps(wanted, indent=1) + "\n"))
        try:
            stored = parse_json(read_small_text(path))
            if not isinstance(stored, dict):
                raise ValueError("it does not hold settings")
        except ValueError as error:
            raise ValueError(f"{path} cannot be read ({error}). Choose another checkpoint_dir.") from error
        if stored != wanted:
            differing = [
                f"{name}: {stored.get(name)!r} there, {wanted.get(name)!r} now"
                for name in sorted({*stored, *wanted})
                if stored.get(name) != wanted.get(name)
            ]
            raise ValueError(
                f"checkpoint_dir={str(folder)!r} belongs to another training ({'; '.join(differing)}). Choose another "
                "folder, or repeat the call that created this one."
            )

    def training(self) -> str | None:
        """Return a digest of the settings that identify the training; None if the folder has none."""
        path = self.folder / SETTINGS
        return digest(path.read_text()) if path.is_file() else None

    def write(self, path: Path, facts: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> None:
        """Write facts and arrays into one file, completely or not at all, with the training that they belong to."""
        plain = {name: value.detach().cpu().numpy() for name, value in arrays.items()}
        facts = {**facts, TRAINING: self.training()}
        facts[DIGEST] = _digest(facts, plain)

        def write(part: Path) -> None:
            with part.open("wb") as file:
                np.savez(file, allow_pickle=False, facts=np.array(json.dumps(facts)), **plain)

        write_atomically(path, write)

    def read(
        self, path: Path, names: Iterable[str] | None, needed: Iterable[str], facts: Iterable[str]
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the facts and arrays of a file.

        Parameters
        ----------
        path
            A file of :meth:`write`.
        names
            Arrays to return, if the file has them. None returns all.
        needed, facts
            Arrays and facts that the file must have.

        Raises
        ------
        ValueError
            The file cannot be read, something is missing in it, it was changed after it was written, it belongs to
            another training, or an array holds NaN or infinite values.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files if name != "facts"}
                stored = parse_json(str(file["facts"]))
            if not isinstance(stored, dict):
                raise ValueError("its facts are no object of JSON")
            self._check(stored, arrays)
            if names is not None:
                arrays = {name: arrays[name] for name in names if name in arrays}
            missing = sorted(set(facts) - set(stored)) + sorted(set(needed) - set(arrays))
            if missing:
                raise ValueError(f"{', '.join(missing)} missing")
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} cannot be read ({error}); was it cut off or edited? Delete it to train from the start."
            ) from error
        return stored, arrays

    def _check(self, stored: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Raise if a file is not of this training, or not as it was written; its marks are taken out of ``stored``."""
        if not {TRAINING, DIGEST} <= set(stored):
            raise ValueError("an earlier version wrote it, which did not say what it belongs to")
        written = stored.pop(DIGEST)
        if written != _digest(stored, arrays):
            raise ValueError("its arrays do not have the digest that was written with them")
        if stored.pop(TRAINING) != self.training():
            raise ValueError(f"it belongs to another training than {SETTINGS} describes")
        bad = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
        if bad:
            raise ValueError(f"{', '.join(bad[:3])} holds NaN or infinite values")


def _digest(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    named = [part for name, array in sorted(arrays.items()) for part in (name, array)]
    return digest(json.dumps(facts, sort_keys=True), *named)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
