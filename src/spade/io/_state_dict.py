"""State dicts from other programs' files, read as data: nothing in them is ever executed."""

from __future__ import annotations

import struct
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from spade.io._bytes import check_file

if TYPE_CHECKING:
    import torch

TORCH_SUFFIXES = (".pth", ".pt", ".bin")
#: Errors of ``torch.load`` on files that are cut off or not torch files, besides ``UnpicklingError``.
DAMAGED = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict, which may be stored under ``"model"`` or ``"state_dict"``."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_file(path, "weights")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"weights={str(path)!r} cannot be read ({error}); was the file cut off?") from error
    if path.suffix not in TORCH_SUFFIXES:
        raise ValueError(f"weights={str(path)!r}: expected a file ending in .safetensors, {', '.join(TORCH_SUFFIXES)}.")
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"weights={str(path)!r} is not a plain state dict of tensors, or is damaged. Only tensors are read, never "
            "code: save model.state_dict() instead of the module."
        ) from error
    except DAMAGED as error:
        raise ValueError(
            f"weights={str(path)!r} cannot be read ({type(error).__name__}: {reason(error)}); was the file cut off?"
        ) from error
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
    return tensors


def reason(error: BaseException) -> str:
    """Return the first sentence of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0][:200]
