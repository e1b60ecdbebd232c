"""HDF5 files of others, such as h5ad: everything in them lies in the file itself, and is no larger than it can be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from spade.io._files.damaged import check_claim, damaged, reading

#: How a heap begins: its signature, version and three empty bytes; and the number of an entry that is free space.
HEAP, FREE = b"GCOL\x01\0\0\0", b"\0\0"

if TYPE_CHECKING:
    from anndata import AnnData


@contextmanager
def open_hdf5(path: Path, argument: str, *, texts: bool = False) -> Iterator[h5py.File]:
    """Open a file for reading; errors of reading it, in the ``with`` block too, name the file.

    Links to other files, data that lie in other files, and sizes beyond what the file can hold are refused. To read
    ``texts`` of any length, the places where they lie are checked first.
    """
    if texts:
        _check_heaps(path, argument)
    with reading(path, "HDF5", argument), h5py.File(path, "r") as file:
        _check_group(file, path, argument)
        yield file


def read_h5ad(path: Path, argument: str) -> AnnData:
    """Read a table from an h5ad file."""
    import anndata

    with open_hdf5(path, argument, texts=True):
        pass
    with reading(path, "h5ad", argument):
        return anndata.read_h5ad(path)


def _check_heaps(path: Path, argument: str) -> None:
    """Raise if free space in a heap, where texts of any length lie, has no size: HDF5 would step over it forever."""
    with reading(path, "HDF5", argument), path.open("rb") as file:
        content = mmap(file.fileno(), 0, access=ACCESS_READ)
        start = -1
        while (start := content.find(HEAP, start + 1)) >= 0:
            place, end = start + 16, start + int.from_bytes(content[start + 8 : start + 16], "little")
            while place + 16 <= min(end, len(content)):
                size = int.from_bytes(content[place + 8 : place + 16], "little")
                is_free = content[place : place + 2] == FREE
                if is_free and not size:
                    raise damaged(path, "HDF5", "a heap of texts does not add up", argument)
                place += size if is_free else 16 + -(-size // 8) * 8


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
