"""Patch features of slides in files as TRIDENT and CLAM write them, read as data: nothing in them is ever executed."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from spade._checks import shorten
from spade.io._state_dict import DAMAGED, reason

H5, TORCH = (".h5", ".hdf5"), (".pt", ".pth")
SUFFIXES = H5 + TORCH
FEATURES, COORDS = "features", "coords"


def is_feature_file(path: Path) -> bool:
    """Whether a path is named as a file of features."""
    return path.suffix.lower() in SUFFIXES


def find_feature_files(source: str | PathLike[str] | Iterable[str | PathLike[str]], argument: str) -> dict[str, Path]:
    """Return the files of a folder, or those listed, by name without suffix, in the order of names."""
    if isinstance(source, (str, PathLike)):
        folder = Path(source)
        paths = sorted(path for path in folder.iterdir() if is_feature_file(path)) if folder.is_dir() else [folder]
        if not paths:
            below = sorted(path.name for path in folder.iterdir() if path.is_dir())
            raise ValueError(
                f"{argument}: {str(folder)!r} has no files ending in {', '.join(SUFFIXES)}; folders in it: {shorten(below) or 'none'}."
            )
    else:
        paths = [Path(path) for path in source]
    found: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{argument}: there is no file {str(path)!r}.")
        if not is_feature_file(path):
            raise ValueError(f"{argument}: {str(path)!r} is no feature file; expected {', '.join(SUFFIXES)}.")
        if path.stem in found:
            raise ValueError(
                f"{argument}: two files of slide {path.stem!r}, {str(found[path.stem])!r} and {str(path)!r}. Keep one."
            )
        found[path.stem] = path
    return dict(sorted(found.items()))


def feature_shape(path: Path) -> tuple[int, int]:
    """Return the number of patches and of features of a file, without reading the features."""
    if path.suffix.lower() in TORCH:
        return _checked(_tensors(path), path).shape
    with _Open(path) as file:
        return _checked(file, path).shape[-2:]


def read_feature_file(path: Path) -> NDArray[np.float32]:
    """Return the features ``(n, d)`` of a file; rows that are NaN throughout are left out."""
    if path.suffix.lower() in TORCH:
        values = _checked(_tensors(path), path).float().numpy()
    else:
        with _Open(path) as file:
            values = np.asarray(_checked(file, path)[...], dtype=np.float32)
    values = values.reshape(values.shape[-2:])
    there = np.isfinite(values).all(1)
    if not there.all():
        broken = ~there & ~np.isnan(values).all(1)
        if broken.any() or not there.any():
            what = f"{int(broken.sum())} rows with NaN or infinite values" if broken.any() else "NaN alone"
            raise ValueError(f"slide {path.stem!r}: {str(path)!r} has {what}. Encode the slide again.")
        values = values[there]
    return values


class _Open:
    """An HDF5 file, whose every error while it is open names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> h5py.File:
        try:
            self.file = h5py.File(self.path, "r")
        except OSError as error:
            raise self._damaged(error) from error
        return self.file

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.file.close()
        if isinstance(error, OSError):
            raise self._damaged(error) from error

    def _damaged(self, error: BaseException) -> ValueError:
        return ValueError(
            f"slide {self.path.stem!r}: {str(self.path)!r} cannot be read ({reason(error)}); was the file cut off? Get it again."
        )


def _tensors(path: Path) -> dict[str, Any]:
    """Return the tensors of a ``.pt`` file by name; those of a bare tensor are its features."""
    import torch

    try:  # what is not read stays on disk, which only the zip form of torch files can
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except UnpicklingError as error:
        raise ValueError(
            f"slide {path.stem!r}: {str(path)!r} holds more than tensors, or is damaged. Only tensors are read, never code: save "
            "them with torch.save(features, path)."
        ) from error
    except DAMAGED as error:
        raise ValueError(
            f"slide {path.stem!r}: {str(path)!r} cannot be read ({type(error).__name__}: {reason(error)}); was the file cut off?"
        ) from error
    parts = found if isinstance(found, dict) else {FEATURES: found}
    if strange := [name for name in (FEATURES, COORDS) if name in parts and not isinstance(parts[name], torch.Tensor)]:
        raise ValueError(
            f"slide {path.stem!r}: {str(path)!r} holds {type(parts[strange[0]]).__name__} as {strange[0]}; expected a tensor."
        )
    return parts


def _checked(parts: Any, path: Path) -> Any:
    """Return the features of an open file after a look at their shape, kind and coordinates."""
    where = f"slide {path.stem!r}: {str(path)!r}"
    if FEATURES not in parts:
        raise KeyError(f"{where} has no {FEATURES!r}; there is {shorten(parts) or 'nothing'}.")
    features = parts[FEATURES]
    if not hasattr(features, "shape"):
        raise ValueError(f"{where}: {FEATURES!r} is a group; expected an array (n, d).")
    shape = tuple(features.shape)
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
        features = features if isinstance(features, h5py.Dataset) else features[0]
    if len(shape) != 2 or not shape[1]:
        raise ValueError(f"{where}: {FEATURES!r} has shape {tuple(features.shape)}; expected (n, d) or (1, n, d).")
    if not shape[0]:
        raise ValueError(f"{where} has no patches. Leave the slide out, of its labels too.")
    kind = features.dtype.kind if isinstance(features, h5py.Dataset) else "f" if features.is_floating_point() else "?"
    if kind != "f":
        raise ValueError(f"{where}: {FEATURES!r} is of type {features.dtype}; expected floating-point numbers.")
    if isinstance(features, h5py.Dataset) and not _is_whole(features):
        raise ValueError(f"{where}: {FEATURES!r} was not written to its end. Encode the slide again.")
    if COORDS in parts:
        of_coords = tuple(getattr(parts[COORDS], "shape", ()))
        of_coords = of_coords[1:] if len(of_coords) == 3 and of_coords[0] == 1 else of_coords
        if of_coords != (shape[0], 2):
            raise ValueError(
                f"{where}: {COORDS!r} has shape {of_coords} beside features {shape}; expected ({shape[0]}, 2), a position for every "
                "patch. Encode the slide again."
            )
    return features


def _is_whole(features: h5py.Dataset) -> bool:
    """Whether all of an array is stored; what is not would be read as zeros."""
    if features.chunks is None:
        return features.id.get_storage_size() > 0 or bool(features.external) or features.is_virtual
    expected = np.prod([-(-n // chunk) for n, chunk in zip(features.shape, features.chunks, strict=True)])
    return features.id.get_num_chunks() == expected
