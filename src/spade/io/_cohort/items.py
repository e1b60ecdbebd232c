"""What users pass as ``samples``, as a list of samples that are not opened yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from os import PathLike
from typing import TypeAlias

import anndata as ad
import pandas as pd
from spatialdata import SpatialData

from spade._checks import plural
from spade.core.checks import check_ordered, check_path, check_text
from spade.io._cohort.lazy import LazySample
from spade.io._cohort.places import Item, NamedSample, of_frame, of_path

#: Iterables that are no lists of samples.
NOT_LISTS = (ad.AnnData, bytes)
_One: TypeAlias = SpatialData | str | PathLike[str] | LazySample
Samples: TypeAlias = _One | Mapping[str, _One] | Iterable[_One | NamedSample] | pd.DataFrame
EXPECTED = (
    "a SpatialData, a path (of a .zarr store, a folder or pattern of stores, a sample sheet or feature files), or an "
    "iterable of these (or a dict that names them)"
)
#: What to do with objects that are often passed instead of a sample, by their class.
ADVICE = {
    "AnnData": " Spots in obsm['spatial'] with their image become one with sp.io.from_anndata(adata, image=…), a table "
    "alone with SpatialData(tables={'table': adata}).",
    "SharedModel": " A model is passed as model=, after the samples.",
}


def items_of(samples: Samples, argument: str) -> list[Item]:
    """Return the samples that an argument stands for, not empty, with the keys of a dict as names."""
    check_ordered(argument, samples)
    items: list[Item]
    if isinstance(samples, pd.DataFrame):
        items = of_frame(samples, argument)
    elif isinstance(samples, (SpatialData, str, PathLike, LazySample)):
        items = _items(samples, argument, "0")
    elif isinstance(samples, Mapping):
        named = {check_text(f"{argument}: name", name): item for name, item in samples.items()}
        items = [_one(item, argument, name) for name, item in named.items()]
    elif isinstance(samples, NOT_LISTS) or not isinstance(samples, Iterable):
        raise TypeError(f"{argument}: got {_kind(samples)}; expected {EXPECTED}.{_advice(samples)}")
    else:
        items = [item for number, one in enumerate(samples) for item in _items(one, argument, str(number))]
    if not items:
        raise ValueError(f"{argument} is empty; expected {EXPECTED}.")
    return items


def _items(item: object, argument: str, which: str) -> list[Item]:
    """Return the samples that one item stands for: an object itself, a path perhaps several."""
    if isinstance(item, (SpatialData, NamedSample, LazySample)):
        return [item]
    if isinstance(item, (str, PathLike)):
        return of_path(item, argument)
    raise TypeError(f"{argument}: item {which} is {_kind(item)}; expected {EXPECTED}.{_advice(item)}")


def _one(item: object, argument: str, name: str) -> NamedSample:
    """Return the sample that has a name."""
    items = _items(item, argument, repr(name))
    if isinstance(item, (str, PathLike)) and items != [check_path(argument, item)]:
        raise ValueError(
            f"{argument}: {name!r} names {str(item)!r}, which stands for {plural(len(items), 'sample')}, but a name in "
            "a dict is that of one. Pass the path alone, or names in a sample sheet."
        )
    one = items[0]
    return replace(one, name=name) if isinstance(one, NamedSample) else NamedSample(name, one)


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _advice(value: object) -> str:
    return next((ADVICE[one.__name__] for one in type(value).__mro__ if one.__name__ in ADVICE), "")
