"""Patch features of slides from files of TRIDENT and CLAM, read as data: nothing in them is ever executed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from spade._checks import plural, shorten
from spade.core.checks import check_path
from spade.core.files import digest
from spade.io._bytes import check_file
from spade.io._files.hdf5 import open_hdf5
from spade.io._state_dict import checked_tensor, load_torch

H5, TORCH = (".h5", ".hdf5"), (".pt", ".pth")
SUFFIXES = H5 + TORCH
FEATURES, COORDS = "features", "coords"
#: How attributes begin that say what this package made of other features.
OURS = "spade_"
#: Names of the columns of predicted expression.
GENES = "genes"
#: Rows at either end of the features that tell whether they were made anew.
ENDS = 256


@dataclass(frozen=True)
class FeatureFile:
    """What a feature file holds.

    Attributes
    ----------
    features
        ``(n, d)`` float32; rows of nothing but NaN have no patch.
    coords
        ``(n, 2)``, the upper left corner of every patch in pixels of the slide; None: the file has none.
    attributes
        Numbers and texts that describe the features, and the coordinates.
    further
        Other arrays of ``n`` rows by name, and names of columns such as ``genes``.
    facts
        What this package made the features of; empty if it did not.
    """

    features: NDArray[np.float32]
    coords: NDArray[np.generic] | None
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    further: dict[str, NDArray[Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def is_feature_file(path: Path) -> bool:
    """Return whether a path has the suffix of a feature file."""
    return path.suffix.lower() in SUFFIXES


def find_feature_files(
    source: str | PathLike[str] | Iterable[str | PathLike[str]] | Mapping[str, Path], argument: str
) -> dict[str, Path]:
    """Return the feature files of a folder, or those listed, by name without suffix or as named, sorted by name."""
    if isinstance(source, Mapping):
        for path in source.values():
            check_file(path, argument)
        return dict(sorted(source.items()))
    if isinstance(source, (str, PathLike)):
        folder = check_path(argument, source)
        paths = [folder]
        if folder.is_dir():
            paths = sorted(path for path in folder.iterdir() if is_feature_file(path) and path.name[0] != ".")
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
    if path.suffix.lower() in TORCH:
        values = _values(_tensors(path), path)
    else:
        with open_hdf5(path, _slide(path)) as file:
            values = _values(file, path)
    finite = np.isfinite(values).all(1)
    return values if finite.all() else values[finite]


def read_whole_file(path: Path) -> FeatureFile:
    """Return all that a file holds; of its other arrays those that describe its patches."""
    if path.suffix.lower() in TORCH:
        parts = _tensors(path)
        return FeatureFile(_values(parts, path), _coords(parts))
    with open_hdf5(path, _slide(path), texts=True) as file:
        features = _values(file, path)
        arrays = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset) and item.ndim}
        arrays = {name: item for name, item in arrays.items() if name not in (FEATURES, COORDS)}
        described = {name: item for name, item in arrays.items() if len(item) == len(features) or name == GENES}
        attributes = {name: _plain(file[name].attrs) for name in (FEATURES, COORDS) if name in file}
        facts = {name.removeprefix(OURS): value for name, value in _plain(file.attrs).items() if name.startswith(OURS)}
        further = {name: item[...] for name, item in described.items() if item.dtype.kind in "biufS"}
        return FeatureFile(features, _coords(file), attributes, further, facts)


def named_encoder(content: FeatureFile) -> str | None:
    """Return the encoder that a file of another program names."""
    return _named(content.attributes.get(FEATURES, {}))


def _named(attributes: Mapping[str, Any]) -> str | None:
    """Return the encoder in the attributes of features; TRIDENT writes None as text."""
    name = attributes.get("encoder")
    return None if name in (None, "", "None") else str(name)


def feature_facts(path: Path) -> dict[str, Any]:
    """Return what this package made the features of a file of; empty if it did not."""
    with open_hdf5(path, _slide(path), texts=True) as file:
        return {name.removeprefix(OURS): value for name, value in _plain(file.attrs).items() if name.startswith(OURS)}


def feature_origin(path: Path) -> dict[str, str]:
    """Return the encoder that the features of a file are of, or the model of this package, as far as it says."""
    if path.suffix.lower() in TORCH:
        return {}
    with open_hdf5(path, _slide(path), texts=True) as file:
        encoder = _named(_plain(file[FEATURES].attrs)) if FEATURES in file else None
        model = _plain(file.attrs).get(f"{OURS}model_id")
    if model is not None:
        return {"model": str(model)}
    return {} if encoder is None else {"encoder": encoder}


def features_digest(path: Path) -> str:
    """Return a digest of the shape and of the first and last features of a file."""
    if path.suffix.lower() in TORCH:
        features = _checked(_tensors(path), path)
        return _digest(features.reshape(features.shape[-2:]).float().numpy())
    with open_hdf5(path, _slide(path)) as file:
        features = _checked(file, path)
        return _digest(features[0] if features.ndim == 3 else features)


def _digest(features: Any) -> str:
    ends = [np.asarray(part, dtype=np.float32) for part in (features[:ENDS], features[-ENDS:])]
    return digest(str(tuple(features.shape)), *ends)


def _values(parts: Any, path: Path) -> NDArray[np.float32]:
    """Return the features ``(n, d)`` in the parts of a file; a row is all NaN or has none."""
    features = _checked(parts, path)
    with np.errstate(over="ignore"):  # too large a number becomes infinite, which is refused
        values = np.asarray(features[...] if isinstance(features, h5py.Dataset) else features.float(), np.float32)
    values = values.reshape(values.shape[-2:])
    finite = np.isfinite(values).all(1)
    broken = ~finite & ~np.isnan(values).all(1)
    if broken.any() or not finite.any():
        what = f"{plural(int(broken.sum()), 'row')} with NaN or infinite values" if broken.any() else "nothing but NaN"
        raise ValueError(f"slide {path.stem!r}: {str(path)!r} has {what}. Encode the slide again.")
    return values


def _coords(parts: Any) -> NDArray[np.generic] | None:
    """Return the coordinates ``(n, 2)`` in the parts of a file, whose shape was checked."""
    if COORDS not in parts:
        return None
    values = np.asarray(parts[COORDS][...])
    return values.reshape(values.shape[-2:])


def _plain(attributes: Any) -> dict[str, Any]:
    """Return the attributes that are a number or a text, or a few of these."""
    plain = {}
    for name, value in attributes.items():
        value = value.decode(errors="replace") if isinstance(value, bytes) else value
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, (bool, int, float, str)) or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf"):
            plain[str(name)] = value
    return plain


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
