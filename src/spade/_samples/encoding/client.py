"""Many stores on the workers of a client of dask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from tqdm.auto import tqdm

from spade._samples.open import NamedSample, Samples, as_list
from spade.core.checks import brief
from spade.io._cohort.lazy import LazySample

#: A sample as a task gets it.
Store: TypeAlias = str | LazySample | dict[str, str | LazySample]


def on_client(
    client: Any, samples: Samples, task: Callable[..., None], then: Callable[[], None], **options: Any
) -> None:
    """Call ``task(store, **options)`` for every store in a task of a client, and wait until all have ended.

    A store is its path as text; where the caller named it, a dict from its name to its path. If tasks fail, the others
    go on, and the error of the first is raised in the end with a note that names all. Every worker calls ``then`` in
    the end.
    """
    distributed = _checked(client)
    stores = [_store(item) for item in as_list(samples, writes=True)]
    futures = [client.submit(task, store, **options, pure=False) for store in stores]
    try:
        for _ in tqdm(distributed.as_completed(futures), total=len(futures), desc="stores", unit="store"):
            pass
        errors = [future.exception() for future in futures]
    finally:
        client.cancel([future for future in futures if not future.done()])
        client.run(then)
    failed = [number for number, error in enumerate(errors) if error is not None]
    if failed:
        names = ", ".join(str(stores[number]) for number in failed[:5])
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


def _store(item: object) -> Store:
    """Return a store as a task gets it; an object in memory raises."""
    named = isinstance(item, NamedSample)
    sample = item.item if isinstance(item, NamedSample) else item
    if isinstance(sample, LazySample):
        return {item.name: sample} if named else sample  # type: ignore[attr-defined]
    if not isinstance(sample, Path):
        raise TypeError(
            f"samples: got {type(sample).__name__} with client=, which takes paths alone: the workers are other "
            "processes and machines, which would change a copy of the object. Save it with sp.io.write, and pass its "
            "path."
        )
    path = str(sample.absolute())
    return {item.name: path} if named else path  # type: ignore[attr-defined]
