"""State dicts from files of others, read as data: nothing in them is ever executed."""

from __future__ import annotations

import struct
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TORCH_SUFFIXES = (".pth", ".pt", ".bin")
#: What ``torch.load`` raises on files that are cut off or no torch files, beside ``UnpicklingError``.
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
    """Read a state dict, bare or under ``"model"`` or ``"state_dict"``."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"weights={str(path)!r}: there is no such file.")
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
            f"weights={str(path)!r} is not a plain state dict of tensors, or is damaged. Only tensors are read, never code: save "
            "model.state_dict() instead of the module."
        ) from error
    except DAMAGED as error:
        raise ValueError(
            f"weights={str(path)!r} cannot be read ({type(error).__name__}: {reason(error)}); was the file cut off?"
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    plain = isinstance(state, dict) and all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    )
    if not plain:
        raise ValueError(
            f"weights={str(path)!r} holds {type(state).__name__}, not a state dict of tensors by name, neither bare nor under 'model' "
            "or 'state_dict'."
        )
    return state


def reason(error: BaseException) -> str:
    """First sentence of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0][:200]
