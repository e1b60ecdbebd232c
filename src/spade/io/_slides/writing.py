"""Images of slides that are written to a store piece by piece, and lie beside it until all pieces are there."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from spade._version import __version__
from spade.core.files import differing, parse_json, read_small_text, write_atomically
from spade.core.patches.ahead import n_cores, read_ahead
from spade.io._atomic import explaining
from spade.io._files.store import quiet, read_facts
from spade.io._images.levels import LazyLevel
from spade.io._images.multiscale import lazy, source

if TYPE_CHECKING:
    import zarr
    from spatialdata import SpatialData

logger = logging.getLogger("spade")
#: Most threads that write pieces.
WRITERS = 16
#: In the hidden folder: what a slide's pieces belong to, and a store with the metadata of all images, without pixels.
SLIDE, UNWRITTEN = "slide.json", ".metadata.zarr"


def levels_of(image: object) -> list[LazyLevel]:
    """Return the levels of an image whose pixels are all those of one file, unchanged; none of any other image."""
    if not isinstance(image, xr.DataTree):
        return []
    found = [source(array.data) for level in image.values() for array in level.data_vars.values()]
    levels = [level for level in found if isinstance(level, LazyLevel)]
    return levels if len(levels) == len(found) and len({level.path for level in levels}) == 1 else []


class SlidePieces:
    """The images of an object that are those of slides, and a hidden folder with what is written of them.

    A piece is a row of chunks of one level. It counts as written once a file says which chunks it has, of how many
    bytes.

    Parameters
    ----------
    sdata
        Object that is saved.
    store
        Where it is saved, all links resolved. Who writes pieces keeps others out of the store meanwhile.
    """

    def __init__(self, sdata: SpatialData, store: Path) -> None:
        self.store, self.folder = store, store.with_name(f".{store.name}.spade-slides")
        self.levels = {name: levels for name, image in sdata.images.items() if (levels := levels_of(image))}

    def write(self, sdata: SpatialData) -> None:
        """Write the pieces that are not there yet; what an interrupted call for another slide left is removed."""
        if not self.levels:
            return
        with explaining(self.store):
            self._write_metadata(sdata)
            pieces = [piece for name in self.levels for piece in self._claimed(name)]
            missing = [piece for piece in pieces if not piece.is_written()]
            if there := len(pieces) - len(missing):
                logger.info("%s: goes on with %d of %d pieces of slides written", self.store.name, there, len(pieces))
            try:
                _write(missing, sum(piece.n_chunks for piece in pieces), self.store.name)
            except BaseException:
                if not any(piece.is_written() for piece in pieces):
                    self.remove()
                raise
        self._pieces = pieces

    def files(self) -> Iterator[tuple[Path, Path]]:
        """Yield every file of the images, and its place in the store; a piece that went away raises."""
        if not self.levels:
            return
        metadata = self.folder / UNWRITTEN
        for folder, _, names in os.walk(metadata / "images"):
            for file in (Path(folder, name) for name in names):
                yield file, file.relative_to(metadata)
        for piece in self._pieces:
            if not piece.is_written():
                raise FileNotFoundError(f"{str(piece.record)!r} or a chunk of it")
            for chunk in piece.chunks():
                if chunk.exists():
                    yield chunk, Path("images") / chunk.relative_to(self.folder)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_metadata(self, sdata: SpatialData) -> None:
        """Write a store of the images without their pixels, which has all metadata that the whole store will have."""
        from spatialdata import SpatialData

        metadata = self.folder / UNWRITTEN
        shutil.rmtree(metadata, ignore_errors=True)
        self.folder.mkdir(exist_ok=True)
        with quiet():
            images = {name: _unwritten(sdata.images[name]) for name in self.levels}
            SpatialData(images=images).write(metadata, consolidate_metadata=False)

    def _claimed(self, name: str) -> list[Piece]:
        """Return the pieces of an image, in a folder that is of this slide and these settings."""
        import zarr

        folder, levels = self.folder / name, self.levels[name]
        written = [self.folder / UNWRITTEN / "images" / name / f"s{i}" / "zarr.json" for i in range(len(levels))]
        identity = _identity(levels, [read_facts(file, "path") for file in written])
        if folder.is_dir() and (names := differing(folder / SLIDE, identity)):
            logger.warning(
                "%s: the interrupted writing of image %r in %s is not continued but begun anew, as it differs in %s",
                self.store.name,
                name,
                folder,
                ", ".join(names),
            )
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        write_atomically(folder / SLIDE, lambda part: _write_json(part, identity))
        pieces = []
        for level, file in zip(levels, written, strict=True):
            place = folder / file.parent.name
            place.mkdir(exist_ok=True)
            shutil.copyfile(file, place / file.name)
            array = zarr.open_array(place, mode="r+")
            pieces += [Piece(level, array, place, row) for row in range(-(-level.shape[1] // array.chunks[1]))]
        return pieces


class Piece:
    """A row of chunks of one level of a slide."""

    def __init__(self, level: LazyLevel, array: zarr.Array, place: Path, row: int) -> None:
        self.level, self.array, self.place, self.row = level, array, place, row
        self.n_chunks = -(-level.shape[2] // array.chunks[2])
        self.record = place.with_name(f"{place.name}_{row:06d}.json")

    def chunks(self) -> list[Path]:
        """Return the files of the chunks; one of zeros alone is never there."""
        key = self.array.metadata.encode_chunk_key
        return [self.place / key((0, self.row, column)) for column in range(self.n_chunks)]

    def is_written(self) -> bool:
        """Return whether the piece is there as it was written."""
        try:
            stored = parse_json(read_small_text(self.record))
        except (OSError, ValueError):
            return False
        return bool(stored == self._sizes())

    def write(self) -> Iterator[int]:
        """Write the piece, and yield 1 after every chunk."""
        self.record.unlink(missing_ok=True)
        _, height, width = self.array.chunks
        rows = slice(self.row * height, min((self.row + 1) * height, self.level.shape[1]))
        for column, chunk in enumerate(self.chunks()):
            chunk.unlink(missing_ok=True)  # never changed in place: a store may be linked to it
            columns = slice(column * width, min((column + 1) * width, self.level.shape[2]))
            self.array[:, rows, columns] = self.level[:, rows, columns]
            yield 1
        write_atomically(self.record, lambda part: _write_json(part, self._sizes()))

    def _sizes(self) -> list[int]:
        return [chunk.stat().st_size if chunk.exists() else 0 for chunk in self.chunks()]


def _write(pieces: Sequence[Piece], n_chunks: int, name: str) -> None:
    """Write pieces in threads, each of which holds one chunk, and show how many chunks are there."""
    to_do = sum(piece.n_chunks for piece in pieces)
    streams = [piece.write for piece in pieces]
    most = max((piece.n_chunks for piece in pieces), default=1)
    with tqdm(total=n_chunks, initial=n_chunks - to_do, desc=name, unit="chunk") as bar:
        with closing(read_ahead(streams, min(n_cores(), WRITERS), most)) as written:
            for n in written:
                bar.update(n)


def _unwritten(image: xr.DataTree) -> xr.DataTree:
    """Return an image like another one, whose chunks are empty, so that nothing is stored of them."""
    levels = {}
    for name, level in image.items():
        data = {key: lazy(_Empty(array.shape), array.data.chunksize) for key, array in level.data_vars.items()}
        levels[name] = level.to_dataset().copy(data=data)
    return xr.DataTree.from_dict(levels)


class _Empty(LazyLevel):
    """A level of which every region is an array without values: dask stores none of these."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape  # type: ignore[assignment]

    def __getitem__(self, key: object) -> np.ndarray:
        return np.empty((0, 0, 0), np.uint8)


def _identity(levels: Sequence[LazyLevel], written: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what tells the pieces of a slide from others: its file, and how its levels are stored."""
    file = levels[0].path
    status = file.stat()
    return {
        "version": __version__,
        "slide": file.name,
        "size": status.st_size,
        "time of change": status.st_mtime_ns,
        "library": type(levels[0]).__name__,
        "levels": [facts["shape"] for facts in written],
        "chunks": [facts["chunk_grid"] for facts in written],
        "codecs": [facts["codecs"] for facts in written],
    }


def _write_json(path: Path, facts: object) -> None:
    path.write_text(json.dumps(facts) + "\n", encoding="utf-8")
