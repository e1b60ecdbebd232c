"""State dicts and tensors from other programs' files, read as data: nothing in them is ever executed."""

from __future__ import annotations

import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from spade.io._bytes import check_file
from spade.io._files.damaged import DamagedFileError, damaged, reading, reason

if TYPE_CHECKING:
    import torch

TORCH_SUFFIXES = (".pth", ".pt", ".bin")
__all__ = ["TORCH_SUFFIXES", "load_torch", "read_state", "reason"]


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict, which may be stored under ``"model"`` or ``"state_dict"``."""
    import torch
    from safetensors.torch import load_file

    check_file(path, "weights")
    if path.suffix == ".safetensors":
        with reading(path, "safetensors", "weights"):
            return load_file(path)
    if path.suffix not in TORCH_SUFFIXES:
        raise ValueError(f"weights={str(path)!r}: expected a file ending in .safetensors, {', '.join(TORCH_SUFFIXES)}.")
    state = load_torch(path, "weights", "save model.state_dict() instead of the module")
    for key in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    tensors: dict[str, torch.Tensor] = state if isinstance(state, dict) else {}
    plain = all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items())
    if tensors is not state or not plain:
        raise ValueError(
            f"weights={str(path)!r} holds {type(state).__name__}, not a state dict of tensors by name, neither bare "
            "nor under 'model' or 'state_dict'."
        )
    return {name: checked_tensor(value, path, "weights", name) for name, value in tensors.items()}


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
