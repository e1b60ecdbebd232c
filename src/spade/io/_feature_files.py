"""Patch features of slides from files of TRIDENT and CLAM, read as data: nothing in them is ever executed."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from spade._checks import plural, shorten
from spade.core.checks import check_path
from spade.io._bytes import check_file
from spade.io._files.hdf5 import open_hdf5
from spade.io._state_dict import checked_tensor, load_torch

H5, TORCH = (".h5", ".hdf5"), (".pt", ".pth")
SUFFIXES = H5 + TORCH
FEATURES, COORDS = "features", "coords"


def is_feature_file(path: Path) -> bool:
    """Return whether a path has the suffix of a feature file."""
    return path.suffix.lower() in SUFFIXES


def find_feature_files(source: str | PathLike[str] | Iterable[str | PathLike[str]], argument: str) -> dict[str, Path]:
    """Return the feature files of a folder, or those listed, by name without suffix, sorted by name."""
    if isinstance(source, (str, PathLike)):
        folder = check_path(argument, source)
        paths = sorted(path for path in folder.iterdir() if is_feature_file(path)) if folder.is_dir() else [folder]
        if not paths:
            below = sorted(path.name for path in folder.iterdir() if path.is_dir())
            raise ValueError(
                f"{argument}: {str(folder)!r} has no files ending in {', '.join(SUFFIXES)}; folders in it: "
                f"{shorten(below) or 'none'}."
            )
    else:
        paths = [check_path(argument, path) for path in source]
    files: dict[str, Path] = {}
    for path in paths:
        check_file(path, argument)
        if not is_feature_file(path):
            raise ValueError(f"{argument}: {str(path)!r} is not a feature file; expected {', '.join(SUFFIXES)}.")
        if path.stem in files:
            raise ValueError(
                f"{argument}: two files of slide {path.stem!r}, {str(files[path.stem])!r} and {str(path)!r}. Keep one."
            )
        files[path.stem] = path
    return dict(sorted(files.items()))


def feature_shape(path: Path) -> tuple[int, int]:
    """Return the number of patches and of features in a file, without reading the features."""
    if path.suffix.lower() in TORCH:
        n_patches, n_features = _checked(_tensors(path), path).shape
    else:
        with open_hdf5(path, _slide(path)) as file:
            n_patches, n_features = _checked(file, path).shape[-2:]
    return int(n_patches), int(n_features)


def read_feature_file(path: Path) -> NDArray[np.float32]:
    """Return the features ``(n, d)`` of a file; rows of nothing but NaN are left out."""
    values: NDArray[np.float32]
    if path.suffix.lower() in TORCH:
        values = _checked(_tensors(path), path).float().numpy()
    else:
        with open_hdf5(path, _slide(path)) as file:
            values = np.asarray(_checked(file, path)[...], dtype=np.float32)
    values = values.reshape(values.shape[-2:])
    finite = np.isfinite(values).all(1)
    if finite.all():
        return values
    broken = ~finite & ~np.isnan(values).all(1)
    if broken.any() or not finite.any():
        what = f"{plural(int(broken.sum()), 'row')} with NaN or infinite values" if broken.any() else "nothing but NaN"
        raise ValueError(f"slide {path.stem!r}: {str(path)!r} has {what}. Encode the slide again.")
    return values[finite]


def _slide(path: Path) -> str:
    """Return what messages call a file."""
    return f"slide {path.stem!r}"


def _tensors(path: Path) -> dict[str, Any]:
    """Return the tensors of a ``.pt`` file by name; a bare tensor holds the features."""
    import torch

    loaded = load_torch(path, _slide(path), "save them with torch.save(features, path)", mmap=True)
    parts = loaded if isinstance(loaded, dict) else {FEATURES: loaded}
    for name in (FEATURES, COORDS):
        if name in parts and not isinstance(parts[name], torch.Tensor):
            raise ValueError(
                f"{_slide(path)}: {str(path)!r} holds {type(parts[name]).__name__} as {name}; expected a tensor."
            )
    return {
        name: checked_tensor(value, path, _slide(path), str(name)) if isinstance(value, torch.Tensor) else value
        for name, value in parts.items()
    }


def _checked(parts: Any, path: Path) -> Any:
    """Return the features of an open file, or raise if their shape, type or coordinates are not as expected."""
    source = f"{_slide(path)}: {str(path)!r}"
    if FEATURES not in parts:
        raise KeyError(f"{source} has no {FEATURES!r}; it has {shorten(parts) or 'nothing'}.")
    features = parts[FEATURES]
    if getattr(features, "shape", None) is None:
        raise ValueError(f"{source}: {FEATURES!r} is not an array; expected one of shape (n, d).")
    shape = tuple(features.shape)
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
        features = features if isinstance(features, h5py.Dataset) else features[0]
    if len(shape) != 2 or not shape[1]:
        raise ValueError(f"{source}: {FEATURES!r} has shape {tuple(features.shape)}; expected (n, d) or (1, n, d).")
    if not shape[0]:
        raise ValueError(f"{source} has no patches. Leave the slide out of the files and of the labels.")
    kind = features.dtype.kind if isinstance(features, h5py.Dataset) else "f" if features.is_floating_point() else "?"
    if kind != "f":
        raise ValueError(f"{source}: {FEATURES!r} is of type {features.dtype}; expected floating-point numbers.")
    if isinstance(features, h5py.Dataset) and not _is_whole(features):
        raise ValueError(f"{source}: {FEATURES!r} was not written completely. Encode the slide again.")
    if COORDS in parts:
        coords_shape = tuple(getattr(parts[COORDS], "shape", None) or ())
        coords_shape = coords_shape[1:] if len(coords_shape) == 3 and coords_shape[0] == 1 else coords_shape
        if coords_shape != (shape[0], 2):
            raise ValueError(
                f"{source}: {COORDS!r} has shape {coords_shape} beside features {shape}; expected ({shape[0]}, 2), a "
                "position for every patch. Encode the slide again."
            )
    return features


def _is_whole(features: h5py.Dataset) -> bool:
    """Return whether an array is stored completely; missing chunks would be read as zeros."""
    if features.chunks is None:
        return bool(features.id.get_storage_size() > 0)
    expected = np.prod([-(-n // chunk) for n, chunk in zip(features.shape, features.chunks, strict=True)])
    return bool(features.id.get_num_chunks() == expected)
