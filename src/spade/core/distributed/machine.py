"""Where a training runs: its device, how many of them, and the other processes of a training under torchrun."""

from __future__ import annotations

from dataclasses import dataclass

from spade.core.device import check_devices, resolve_device
from spade.core.distributed.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Machine:
    """Where a training runs.

    Attributes
    ----------
    device
        Torch device of this process.
    devices
        Processes of this machine that the work is dealt to.
    ranks
        Processes that ``torchrun`` started, of which this is one.
    """

    device: str = "cpu"
    devices: int = 1
    ranks: Ranks = ALONE

    @classmethod
    def of(cls, device: str, devices: int, ranks: Ranks) -> Machine:
        """Resolve and check what a user asked for."""
        resolved = resolve_device(device, ranks.local)
        check_devices(devices, resolved, alone=ranks.alone)
        return cls(resolved, devices, ranks)
