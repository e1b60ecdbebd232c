"""State dicts and tensors from other programs' files, read as data: nothing in them is ever executed."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spade._checks import plural, shorten
from spade.io._bytes import check_file
from spade.io._files.damaged import DamagedFileError, damaged, reading, reason

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("spade")
TORCH_SUFFIXES = (".pth", ".pt", ".bin")
#: Entries of a training's file that hold the weights; of several, the first is taken.
CONTAINERS = ("model", "state_dict", "teacher", "student")
#: Names that wrappers put before every key, in any order and number.
WRAPPERS = ("module", "_orig_mod", "model", "backbone", "teacher", "student")
WRAPPED = re.compile(rf"(?:(?:{'|'.join(WRAPPERS)})\.)+")
__all__ = [
    "TORCH_SUFFIXES", "WRAPPERS", "check_finite", "checked_tensor", "keys_fitting", "load_torch", "other_prefix",
    "read_state", "reason",
]  # fmt: skip


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict, bare or under the first of :data:`CONTAINERS` that the file has, nested ones as well.

    Where several would do, as ``teacher`` and ``student`` of a self-distillation, the log says which was taken.
    """
    import torch
    from safetensors.torch import load_file

    check_file(path, "weights")
    if path.suffix == ".safetensors":
        with reading(path, "safetensors", "weights"):
            return load_file(path)
    if path.suffix not in TORCH_SUFFIXES:
        raise ValueError(f"weights={str(path)!r}: expected a file ending in .safetensors, {', '.join(TORCH_SUFFIXES)}.")
    state = load_torch(path, "weights", "save model.state_dict() instead of the module")
    while containers := [key for key in CONTAINERS if isinstance(state, dict) and isinstance(state.get(key), dict)]:
        if len(containers) > 1:
            logger.info("weights=%r holds %s; %r is read", str(path), shorten(containers), containers[0])
        state = state[containers[0]]
    tensors: dict[str, torch.Tensor] = state if isinstance(state, dict) else {}
    plain = all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items())
    if tensors is not state or not plain:
        raise ValueError(
            f"weights={str(path)!r} holds {type(state).__name__}, not a state dict of tensors by name, neither bare "
            f"nor under {', '.join(map(repr, CONTAINERS[:-1]))} or {CONTAINERS[-1]!r}."
        )
    return {name: checked_tensor(value, path, "weights", name) for name, value in tensors.items()}


def keys_fitting(
    state: dict[str, torch.Tensor], wanted: Iterable[str], what: str
) -> tuple[dict[str, torch.Tensor], str]:
    """Return the tensors of a network under its own names, and the prefix that they had in the file.

    The rule, for all files of weights: if the keys are not those of the network, one prefix is removed that is made of
    :data:`WRAPPERS` (such as ``"module."`` or ``"teacher.backbone."``), the shortest under which all keys of the
    network are found; if there is none, the one under which most are found, and the caller says what is missing. Keys
    without this prefix belong to something else and are left out, which the log says. Where there is a teacher, its
    student is never read.

    Parameters
    ----------
    state
        Tensors by name.
    wanted
        Keys that the network needs, or some of them.
    what
        How the log calls the file.
    """
    needed = set(wanted)
    heads = {head.group() for head in map(WRAPPED.match, state) if head}
    parts = {
        "".join(f"{part}." for part in head.split(".")[:n]) for head in heads for n in range(1, head.count(".") + 1)
    }
    prefixes = sorted({"", *parts}, key=lambda prefix: (prefix.count("."), prefix))
    if any("teacher." in prefix for prefix in prefixes):
        prefixes = [prefix for prefix in prefixes if "student." not in prefix]
    best = max(prefixes, key=lambda prefix: sum(f"{prefix}{key}" in state for key in needed))
    if not best:
        return state, best
    others = [key for key in state if not key.startswith(best)]
    logger.info("%s: keys are read without the prefix %r; left out: %s", what, best, shorten(others) or "none")
    return {key.removeprefix(best): value for key, value in state.items() if key.startswith(best)}, best


def other_prefix(state: Iterable[str], wanted: Iterable[str]) -> str | None:
    """Return what stands before the keys of a network, if no rule removes it; None if they are not among the keys."""
    needed = set(wanted)
    for key in state:
        parts = key.split(".")
        for n in range(1, len(parts)):
            if ".".join(parts[n:]) in needed:
                return "".join(f"{part}." for part in parts[:n])
    return None


def check_finite(arrays: Mapping[str, torch.Tensor | NDArray[Any]], what: str) -> None:
    """Raise if any array of numbers holds NaN or infinity, with the name of the first."""
    bad = {name: n for name, array in arrays.items() if (n := _n_not_finite(array))}
    if bad:
        name, n = next(iter(bad.items()))
        raise ValueError(
            f"{what}: {len(bad)} of {plural(len(arrays), 'tensor')} hold NaN or infinite values, such as {name!r} in "
            f"{n} of {int(np.prod(arrays[name].shape))}. The weights are damaged, or their training diverged; use "
            "others."
        )


def _n_not_finite(array: torch.Tensor | NDArray[Any]) -> int:
    """Return how many numbers are NaN or infinite."""
    if isinstance(array, np.ndarray):
        return int((~np.isfinite(array)).sum()) if array.dtype.kind in "fc" else 0
    plain = array.detach()
    if plain.is_complex() or not plain.is_floating_point():
        return 0
    return int((~(plain if plain.element_size() > 1 else plain.float()).isfinite()).sum())


def load_torch(path: Path, argument: str, advice: str, *, mmap: bool = False) -> Any:
    """Return what a file of ``torch.save`` holds, on the CPU; it may be mapped, so that unread tensors stay on disk."""
    import torch

    try:
        with reading(path, "a torch file of tensors", argument):
            is_zip = zipfile.is_zipfile(path)
            if is_zip and not _is_stored_plainly(path):
                raise damaged(path, "a torch file of tensors", "its parts are compressed", argument)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=(mmap and is_zip) or None)
    except DamagedFileError as error:
        if isinstance(error.__cause__, UnpicklingError):
            raise DamagedFileError(
                f"{argument}: {str(path)!r} holds more than tensors, or is damaged. Only tensors are read, never code: "
                f"{advice}."
            ) from error
        raise


def checked_tensor(tensor: torch.Tensor, path: Path, argument: str, name: str) -> torch.Tensor:
    """Return a tensor without its gradient; raise unless its values are numbers that all lie in the file."""
    import torch

    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise damaged(path, "a torch file of tensors", f"{name!r} does not hold all of its values", argument)
    return tensor.detach()


def _is_stored_plainly(path: Path) -> bool:
    """Return whether the parts of a zip archive are as large as in the file, as torch writes them."""
    with zipfile.ZipFile(path) as archive:
        return all(part.file_size <= part.compress_size for part in archive.infolist())
