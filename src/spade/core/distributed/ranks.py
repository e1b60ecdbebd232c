"""The processes that ``torchrun`` starts, on one machine or many: what they share before a training and gather after it."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor

#: All processes must have begun within this time.
JOIN_TIMEOUT = timedelta(hours=1)
#: A rank that has ended is noticed at once by its closed connection; one that trains for long is waited for.
TIMEOUT = timedelta(days=30)


@dataclass(frozen=True)
class Ranks:
    """One of ``world`` processes that run the same script; ``local`` is its number on its machine."""

    rank: int
    world: int
    local: int
    group: Any

    def gather(self, own: Any) -> list[Any]:
        """Return what every rank gave, in their order, on every rank."""
        found: list[Any] = [None] * self.world
        with _lost(self.rank):
            dist.all_gather_object(found, own, group=self.group)
        return found

    def first(self, make: Callable[[], Any]) -> Any:
        """Return what the first rank makes, on every rank."""
        box = [make() if self.rank == 0 else None]
        with _lost(self.rank):
            dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def add_up(self, values: Tensor) -> None:
        """Replace a tensor by its sum over the ranks, on every rank."""
        with _lost(self.rank):
            dist.all_reduce(values, group=self.group)

    def alike(self, own: dict[str, Any]) -> None:
        """Raise an error if not all ranks have the same settings and data."""
        for rank, other in enumerate(self.gather(own)):
            if differing := sorted(name for name in {*own, *other} if own.get(name) != other.get(name)):
                raise ValueError(
                    f"rank {self.rank} and rank {rank} have not the same {', '.join(differing)}: all processes that torchrun starts must "
                    "be given the same samples and settings."
                )


@contextmanager
def ranks() -> Iterator[Ranks | None]:
    """Return this process among those of ``torchrun``, or None if it was not started by it or is the only one."""
    if not dist.is_available():
        yield None
        return
    if not dist.is_initialized() and dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1:
        dist.init_process_group(
            "gloo", timeout=JOIN_TIMEOUT
        )  # once: it serves the later trainings of the script as well
        atexit.register(dist.destroy_process_group)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield None
        return
    rank = dist.get_rank()
    group = dist.new_group(backend="gloo", timeout=TIMEOUT)
    try:
        yield Ranks(rank, dist.get_world_size(), int(os.environ.get("LOCAL_RANK", rank)), group)
    finally:  # so that the others notice if this one goes on without them
        dist.destroy_process_group(group)


@contextmanager
def _lost(rank: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo: connection closed by peer
        raise RuntimeError(
            f"rank {rank} lost another process of this training: it ended, or cannot be reached ({str(error).splitlines()[0]}). What "
            "checkpoint_dir holds is kept: start all processes again to go on from there."
        ) from error
