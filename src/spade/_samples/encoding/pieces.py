"""Features of a store that are encoded piece by piece, beside the store until all are there."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spade._samples.encode import EncodingPlan
from spade.core.files import differing, digest
from spade.core.training_state import SETTINGS, StateFolder
from spade.io._atomic import explaining

logger = logging.getLogger("spade")
#: Array of a piece, and the fact that tells which piece it is.
FEATURES, NUMBER = "features", "piece"
#: File of all features, in the order of the rows.
WHOLE = "whole.f32"
#: Rows without a patch that are written at a time.
ROWS = 4096


class StoredPieces:
    """A hidden folder with the pieces of an encoding, beside the store: on its volume, but no part of it.

    Parameters
    ----------
    store
        The store, all links resolved. Whoever writes the pieces of one key keeps others out of it meanwhile.
    key
        Key of the features.
    plan
        What is encoded, in which pieces.
    dim
        Width of the features.
    """

    def __init__(self, store: Path, key: str, plan: EncodingPlan, dim: int) -> None:
        self.store, self.plan, self.dim = store, plan, dim
        self.folder = store.with_name(f".{store.name}.spade-encoding-{key}")
        self._state: StateFolder | None = None

    @property
    def state(self) -> StateFolder:
        """The folder, as :meth:`claim` left it, in this or another process; it is not made again if it goes away."""
        if self._state is None:
            self._state = StateFolder(self.folder, None)
        return self._state

    def claim(self, identity: dict[str, Any], name: str) -> list[int]:
        """Return the pieces that are not there yet; what an interrupted encoding of something else left is removed."""
        if differing := self._differing(identity):
            logger.warning(
                "%s: the interrupted encoding in %s is not continued but begun anew, as it differs in %s",
                name,
                self.folder,
                ", ".join(differing),
            )
            shutil.rmtree(self.folder)
        with explaining(self.store):
            self._state = StateFolder(self.folder, identity)
        missing = [piece for piece in range(len(self.plan.pieces)) if self._read(piece) is None]
        if n_there := len(self.plan.pieces) - len(missing):
            logger.info("%s: goes on with %d of %d pieces encoded", name, n_there, len(self.plan.pieces))
        return missing

    def write(self, piece: int, features: NDArray[np.float32]) -> None:
        """Write a piece, completely or not at all."""
        with explaining(self.store):
            self.state.write(self._file(piece), {NUMBER: piece}, {FEATURES: torch.from_numpy(features)})

    def whole(self) -> NDArray[np.float32]:
        """Return the features of all rows, NaN without a patch, mapped from a file; a missing piece raises."""
        path = self.folder / WHOLE
        with explaining(self.store), path.open("wb") as file:
            empty = np.full((min(ROWS, self.plan.n_obs), self.dim), np.nan, dtype=np.float32)
            for start in range(0, self.plan.n_obs, ROWS):
                file.write(empty[: self.plan.n_obs - start].data)
            for piece in range(len(self.plan.pieces)):
                features = self._read(piece)
                if features is None:
                    raise ValueError(
                        f"{str(self._file(piece))!r} is not there. Was it removed while the function worked on it, or "
                        "do the machines that encode not see the same folder? Run the function again."
                    )
                for row, values in zip(self.plan.rows(piece).tolist(), features, strict=True):
                    file.seek(row * values.nbytes)
                    file.write(values.data)
        return np.asarray(np.memmap(path, np.float32, mode="r", shape=(self.plan.n_obs, self.dim)))

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove_empty(self) -> None:
        """Remove the folder if no piece is in it."""
        if not any(self._file(piece).exists() for piece in range(len(self.plan.pieces))):
            self.remove()

    def _file(self, piece: int) -> Path:
        return self.folder / f"{FEATURES}_{piece:06d}.npz"

    def _differing(self, identity: dict[str, Any]) -> list[str]:
        """Return in what an encoding that was interrupted here differs; nothing if there is none."""
        if not self.folder.is_dir() or not any(self.folder.iterdir()):
            return []
        return differing(self.folder / SETTINGS, identity)

    def _read(self, piece: int) -> NDArray[np.float32] | None:
        """Return a piece if it is there as it was written, else remove what is there."""
        path = self._file(piece)
        if not path.exists():
            return None
        try:
            facts, arrays = self.state.read(path, None, (FEATURES,), (NUMBER,))
        except (ValueError, MemoryError) as error:
            logger.warning("%s cannot be read (%s); it is encoded again", path, error.__cause__ or error)
            path.unlink()
            return None
        features = arrays[FEATURES]
        wanted = (len(self.plan.pieces[piece][1]), self.dim)
        if facts[NUMBER] != piece or features.shape != wanted or features.dtype != np.float32:
            logger.warning("%s is not piece %d of this encoding; it is encoded again", path, piece)
            path.unlink()
            return None
        return features


def image_stamp(store: Path, pictures: tuple[Path, ...], images: set[str]) -> str:
    """Return a digest of names, sizes and times of the files of images in a store, and of pictures beside it.

    It changes when somebody writes an image, and stays when other elements of the store are replaced.
    """
    facts = []
    for picture in pictures:
        status = picture.stat()
        facts.append((picture.name, status.st_size, status.st_mtime_ns))
    for image in sorted(images):
        for folder, _, files in os.walk(store / "images" / image):
            for file in files:
                status = os.stat(Path(folder, file))
                facts.append((str(Path(folder, file).relative_to(store)), status.st_size, status.st_mtime_ns))
    return digest(json.dumps(sorted(facts)))
