"""Many stores on the workers of a client of dask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from tqdm.auto import tqdm

from spade._samples.open import Samples, as_list
from spade.core.checks import brief
from spade.io._cohort.lazy import ERROR, LazySample
from spade.io._cohort.places import Item, NamedSample, bare, place_of

#: A sample as a task gets it.
Store: TypeAlias = str | LazySample | list[NamedSample]


def on_client(
    client: Any, samples: Samples, task: Callable[..., None], then: Callable[[], None], **options: Any
) -> None:
    """Call ``task(store, **options)`` for every store in a task of a client, and wait until all have ended.

    A store is its path as text; where the caller described it, a list of one. If tasks fail, the others go on, and the
    error of the first is raised in the end with a note that names all; stores that cannot be read and may be skipped
    are left out with a warning. Every worker calls ``then`` in the end.
    """
    distributed = _checked(client)
    listed = as_list(samples, writes=True)
    stores = [_store(item) for item in listed]
    futures = [client.submit(task, store, **options, pure=False) for store in stores]
    try:
        for _ in tqdm(distributed.as_completed(futures), total=len(futures), desc="stores", unit="store"):
            pass
        errors = [future.exception() for future in futures]
    finally:
        client.cancel([future for future in futures if not future.done()])
        client.run(then)
    failed = [n for n, error in enumerate(errors) if error is not None and not listed.leave_out(n, error)]
    if failed:
        names = ", ".join(str(place_of(listed[number])) for number in failed[:5])
        error = errors[failed[0]]
        error.add_note(f"{len(failed)} of {len(stores)} stores were not encoded ({names}); the others were.")
        raise error


def _checked(client: Any) -> Any:
    """Return the module ``distributed`` if ``client`` is a client of it, else raise."""
    try:
        import distributed
    except ImportError as error:
        raise ImportError("client= needs dask.distributed: pip install distributed.") from error
    if not isinstance(client, distributed.Client):
        raise TypeError(f"client={brief(client)}: expected a dask.distributed.Client.")
    if client.asynchronous:
        raise ValueError("client= is asynchronous, but this function waits for its end: pass one that is not.")
    return distributed


def _store(item: Item) -> Store:
    """Return a store as a task gets it, which raises if it cannot be read; an object in memory raises."""
    sample = bare(item)
    if isinstance(sample, LazySample):
        sample = replace(sample, on_damaged=ERROR)
    elif isinstance(sample, Path):
        sample = sample.absolute()
    else:
        raise TypeError(
            f"samples: got {type(sample).__name__} with client=, which takes paths alone: the workers are other "
            "processes and machines, which would change a copy of the object. Save it with sp.io.write, and pass its "
            "path."
        )
    if isinstance(item, NamedSample):
        return [replace(item, item=sample, on_damaged=ERROR)]
    return str(sample) if isinstance(sample, Path) else sample
