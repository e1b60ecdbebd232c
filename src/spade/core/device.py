"""Torch devices, the way of arrays to them, and the precision of products."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from spade.core.checks import check_count, check_text

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def resolve_device(device: str, number: int | None = None) -> str:
    """Return the device to compute on: ``"auto"`` is ``"cuda"`` where torch sees a GPU, else ``"cpu"``.

    ``number`` is that of a process among those of its machine; it chooses the GPU if ``device`` does not.
    """
    if check_text("device", device) == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f'device={device!r} is not a torch device; use "auto", "cpu" or "cuda".') from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f'device={device!r}: torch sees no CUDA device; use "auto" or "cpu".')
    if chosen.type == "cuda" and chosen.index is None and number is not None:
        return f"cuda:{number % torch.cuda.device_count()}"
    return device


def on_gpu(device: object) -> bool:
    """Whether a device, as an encoder names its own, is a GPU of CUDA; None is none."""
    return str(device).startswith("cuda")


def pinned(array: NDArray[np.uint8], device: object) -> NDArray[np.uint8]:
    """Return an array in memory that a GPU reads without the help of the CPU; for other devices, as it is."""
    if not on_gpu(device):
        return array
    values: NDArray[np.uint8] = _tensor(array).pin_memory().numpy()
    return values


def send(array: NDArray[np.uint8], device: str) -> torch.Tensor:
    """Return an array as a tensor on a device; the CPU does not wait until it has arrived on a GPU."""
    tensor = _tensor(array)
    if not on_gpu(device):
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def _tensor(array: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def check_devices(devices: int, device: str, *, alone: bool) -> None:
    """Raise if a training cannot run on so many devices; ``alone`` is False in a process that ``torchrun`` started."""
    if check_count("devices", devices) == 1:
        return
    if not alone:
        raise ValueError(f"devices={devices} under torchrun, where every process has one device: leave it out.")
    if torch.device(device).index is not None:
        raise ValueError(f'devices={devices}, but device={device!r} is a single one: use "cuda" or "cpu".')
    if torch.device(device).type == "cuda" and devices > torch.cuda.device_count():
        raise ValueError(f"devices={devices}, but the number of CUDA devices is {torch.cuda.device_count()}.")
