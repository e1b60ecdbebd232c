"""HDF5 files of others, such as h5ad: everything in them lies in the file itself, and is no larger than it can be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from spade.io._files.damaged import check_claim, damaged, reading

if TYPE_CHECKING:
    from anndata import AnnData


@contextmanager
def open_hdf5(path: Path, argument: str) -> Iterator[h5py.File]:
    """Open a file for reading; errors of reading it, in the ``with`` block too, name the file.

    Links to other files, data that lie in other files, and sizes beyond what the file can hold are refused.
    """
    with reading(path, "HDF5", argument), h5py.File(path, "r") as file:
        _check_group(file, path, argument)
        yield file


def read_h5ad(path: Path, argument: str) -> AnnData:
    """Read a table from an h5ad file."""
    import anndata

    with open_hdf5(path, argument):
        pass
    with reading(path, "h5ad", argument):
        return anndata.read_h5ad(path)


def _check_group(file: h5py.File, path: Path, argument: str) -> None:
    """Raise if something in the file lies elsewhere, or the file claims more than it can hold."""
    waiting: list[h5py.Group] = [file]
    seen, claimed = set(), 0
    while waiting:
        group = waiting.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise damaged(path, "HDF5", f"{name!r} is a link to another file, {link.filename!r}", argument)
            if isinstance(link, h5py.SoftLink):  # what it leads to is met elsewhere in the file
                continue
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise damaged(path, "HDF5", f"the data of {name!r} lie in another file", argument)
                claimed += item.nbytes if item.shape is not None else 0
    check_claim(path, "HDF5", claimed, argument=argument)
