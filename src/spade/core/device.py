"""Where tensors live."""

from __future__ import annotations

import torch

from spade.core.checks import check_count

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def resolve_device(device: str, number: int | None = None) -> str:
    """Turn ``"auto"`` into ``"cuda"`` where there is one, else ``"cpu"``; check anything else.

    ``number``, of a process among those of its machine, chooses the GPU where ``device`` does not.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f'device={device!r} is not a torch device; use "auto", "cpu" or "cuda".') from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f'device={device!r}: torch sees no CUDA device; use "auto" or "cpu".')
    if chosen.type == "cuda" and chosen.index is None and number is not None:
        return f"cuda:{number % torch.cuda.device_count()}"
    return device


def check_devices(devices: int, device: str, *, alone: bool) -> None:
    """Raise if a training cannot be dealt to so many devices; ``alone``: ``torchrun`` has not dealt it already."""
    if check_count("devices", devices) == 1:
        return
    if not alone:
        raise ValueError(f"devices={devices} under torchrun, where every process has one device: leave it out.")
    if torch.device(device).index is not None:
        raise ValueError(f'devices={devices} with device={device!r}, which is a single one: use "cuda" or "cpu".')
    if torch.device(device).type == "cuda" and devices > torch.cuda.device_count():
        raise ValueError(f"devices={devices}, but torch sees {torch.cuda.device_count()} CUDA devices.")
