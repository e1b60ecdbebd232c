"""Samples of a sheet, a folder, a list or a dict, and what happens to those whose files are damaged."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from spade.core.checks import check_choice
from spade.io._cohort.lazy import ON_DAMAGED

if TYPE_CHECKING:
    from spade.io._cohort.items import Samples
    from spade.io._cohort.places import NamedSample


def cohort(samples: Samples, *, on_damaged: str = "error") -> list[NamedSample]:
    """Name the samples of a cohort, and say what functions do with those that cannot be read.

    Every function takes a sheet, a folder or a dict of stores as it is, and stops at the first one that cannot be read.
    With this list instead, ``on_damaged="skip"`` goes on without it. Nothing is opened here.

    Parameters
    ----------
    samples
        What functions take as samples: a sample sheet (``"samples.csv"`` or a ``DataFrame``), a folder or pattern of
        stores or feature files, a list of these, or a dict from name to path. For HEST-1k, :func:`hest_cohort` has the
        same argument.
    on_damaged
        What a function does with a sample that cannot be opened, such as one whose store lacks a part or has a file
        that was cut off: ``"error"``, or ``"skip"``, which goes on without it and warns. Pixels are read later: a
        damaged piece of an image is an error of the function that reads it.

    Returns
    -------
    list of samples
        To pass as ``samples`` to any function; a part of it, such as ``samples[:10]``, as well. ``name`` is the name
        that the sheet or dict gives, ``item`` the path and ``columns`` what the sheet says.

    Raises
    ------
    FileNotFoundError
        No such path, nothing that fits a pattern, or paths of the sheet that are not there.
    ValueError
        An unknown ``on_damaged``, or a sheet that is none.

    Examples
    --------
    >>> import spade as sp, tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name, sdata in zip("ab", sp.datasets.toy(2, 60)):
    ...     sp.io.write(sdata, folder / f"{name}.zarr")
    >>> _ = (folder / "b.zarr" / "tables" / "table" / "zarr.json").write_text('{"cut o')

    >>> samples = sp.io.cohort({"A1": folder / "a.zarr", "B1": folder / "b.zarr"}, on_damaged="skip")
    >>> [sample.name for sample in samples]
    ['A1', 'B1']
    >>> sp.pp.patches(samples)  # warns that B1 is left out
    """
    from spade.io._cohort.items import items_of
    from spade.io._cohort.places import NamedSample

    check_choice("on_damaged", on_damaged, ON_DAMAGED)
    return [
        replace(item, on_damaged=on_damaged)
        if isinstance(item, NamedSample)
        else NamedSample("", item, on_damaged=on_damaged)
        for item in items_of(samples, "samples")
    ]
