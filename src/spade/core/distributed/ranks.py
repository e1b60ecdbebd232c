"""The processes that ``torchrun`` starts for one call, on one machine or many, and how they share values."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

Made = TypeVar("Made")
#: All processes must have begun within this time.
JOIN_TIMEOUT = timedelta(hours=1)
#: A rank that has ended is noticed at once by its closed connection; one that trains for long is waited for.
TIMEOUT = timedelta(days=30)


@dataclass(frozen=True)
class Ranks:
    """One of the ``world`` processes of a training; as it is made by default, the only one.

    Attributes
    ----------
    rank, world
        Number of this process, and of all processes.
    local
        Number of this process on its machine; None: it has the machine for itself.
    group
        Group of ``torch.distributed`` that the processes talk in; None: there is nobody to talk to.
    """

    rank: int = 0
    world: int = 1
    local: int | None = None
    group: Any = None

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return self.world == 1

    @property
    def leads(self) -> bool:
        """Whether this process speaks for all, as in logs and progress bars."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in their order, on every rank."""
        values: list[Any] = [value] * self.world
        if not self.alone:
            with _lost(self.rank):
                dist.all_gather_object(values, value, group=self.group)
        return values

    def first(self, make: Callable[[], Made]) -> Made:
        """Return what the first rank makes, on every rank."""
        if self.alone:
            return make()
        box: list[Any] = [make() if self.leads else None]
        with _lost(self.rank):
            dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def add_up(self, values: Tensor) -> None:
        """Replace a tensor by its sum over the ranks, on every rank."""
        if not self.alone:
            with _lost(self.rank):
                dist.all_reduce(values, group=self.group)

    def alike(self, make_facts: Callable[[], dict[str, Any]]) -> None:
        """Raise an error unless all ranks have the same settings and data; a single rank computes nothing."""
        if self.alone:
            return
        facts = make_facts()
        for rank, others in enumerate(self.gather(facts)):
            if differing := sorted(name for name in {*facts, *others} if facts.get(name) != others.get(name)):
                raise ValueError(
                    f"rank {self.rank} and rank {rank} differ in {', '.join(differing)}: give all processes that "
                    "torchrun starts the same samples and settings."
                )


ALONE = Ranks()


@contextmanager
def torchrun_ranks() -> Iterator[Ranks]:
    """Return this process among those that ``torchrun`` started, or as the only one."""
    if not dist.is_available():
        yield ALONE
        return
    if not dist.is_initialized() and dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1:
        dist.init_process_group("gloo", timeout=JOIN_TIMEOUT)  # once: later trainings of the script use it as well
        atexit.register(dist.destroy_process_group)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield ALONE
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
            f"rank {rank} lost another process of this training or encoding, which ended or cannot be reached "
            f"({str(error).splitlines()[0]}). What was done is kept, in checkpoint_dir or beside the store that was "
            "encoded: start all processes again to go on."
        ) from error
