"""Where tensors live."""

from __future__ import annotations

import torch


def resolve_device(device: str) -> str:
    """Turn ``"auto"`` into ``"cuda"`` where there is one, else ``"cpu"``; check anything else."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f'device={device!r} is not a torch device; use "auto", "cpu" or "cuda".') from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f'device={device!r}: torch sees no CUDA device; use "auto" or "cpu".')
    return device
