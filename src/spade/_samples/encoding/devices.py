"""Encoders on several devices, and the pieces that are dealt to them and to ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event, Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from spade._samples.encode import EncodingPlan, encode_pieces, n_readers
from spade.core.distributed.machine import Machine
from spade.core.distributed.ranks import Ranks
from spade.core.distributed.workers import places
from spade.encoders import Encoder

Opened = TypeVar("Opened")
Keep = Callable[[int, NDArray[np.float32]], object]


def encoders_on(encoder: Encoder, devices: int, ranks: Ranks) -> list[Encoder]:
    """Return an encoder for each of so many devices; a process of ``torchrun`` gets its own GPU.

    An encoder has a ``device``, and ``to(device)``, which moves it and returns it. One that lacks them runs as it is,
    on one device.
    """
    if devices == 1 and ranks.alone:
        return [encoder]
    own: Any = encoder
    device = str(getattr(encoder, "device", "cpu"))
    machine = Machine.of(device, devices, ranks)
    movable = hasattr(encoder, "device") and callable(getattr(encoder, "to", None))
    if devices == 1 and (machine.device == device or not movable):
        return [encoder]
    if not movable:
        raise ValueError(
            f"devices={devices}, but encoder {encoder.name!r} has no device and to(device), so it cannot be copied to "
            "several devices: leave devices= out."
        )
    if devices == 1:
        return [copy.deepcopy(own).to(machine.device)]
    first, *others = places(machine.device, devices)
    return [own.to(first), *(copy.deepcopy(own).to(place) for place in others)]


def share(pieces: Sequence[int], number: int, n: int) -> Sequence[int]:
    """Return the share of one of ``n``: pieces that follow each other, as neighbours lie in the same chunks."""
    bounds = [len(pieces) * i // n for i in (number, number + 1)]
    return pieces[slice(*bounds)]


def encode_on(
    encoders: Sequence[Encoder], plan: EncodingPlan, pieces: Sequence[int], keep: Keep, tell: Callable[[int], object]
) -> None:
    """Encode pieces, each encoder its share in a thread of its own; ``keep`` gets every piece, one at a time."""
    lock, stop = Lock(), Event()

    def told(n: int) -> None:
        with lock:
            tell(n)

    def work(number: int) -> None:
        mine = share(pieces, number, len(encoders))
        with closing(encode_pieces(plan, encoders[number], mine, n_readers(len(encoders)), told)) as encoded:
            for piece, features in encoded:
                if stop.is_set():
                    return
                keep(piece, features)

    if len(encoders) == 1:
        work(0)
        return
    with ThreadPoolExecutor(len(encoders), thread_name_prefix="encoder") as pool:
        futures = [pool.submit(work, number) for number in range(len(encoders))]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stop.set()
            raise


def in_step(samples: Iterator[Opened], ranks: Ranks) -> Iterator[Opened]:
    """Open every sample on the first rank, which writes it, before the others; they go on when it is written."""
    while True:
        if not ranks.leads:
            ranks.gather(None)
        sample = next(samples, None)
        if ranks.leads:
            ranks.gather(None)
        if sample is None:
            return
        yield sample
