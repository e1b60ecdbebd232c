"""Save a SpatialData object: an interruption at any moment leaves the old store or the new one."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spade._keys import REVISION
from spade.core.checks import check_flag, check_path
from spade.core.files import digest
from spade.io._atomic import UNSUPPORTED, publish, replacing
from spade.io._files.store import check_metadata, quiet, read_facts
from spade.io._slides.writing import SlidePieces

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from spatialdata import SpatialData

#: Files of zarr metadata. They are copied, never linked, because writers may change them in place.
METADATA = {"zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata"}


def write(sdata: SpatialData, path: str | Path, *, overwrite: bool = True) -> None:
    """Save ``sdata`` as a zarr store at ``path``; a kill at any moment leaves the old store or the new one.

    ``path`` may be the store that ``sdata`` is read lazily from. Afterwards ``sdata.path`` is ``path``, and elements
    that were read from there are read from the new store. Read other objects that use the old store again: saving
    one of them there as well is an error, as what was written in between would be lost. Every saving renews
    ``attrs["spade_revision"]``, by which this is noticed. Of two calls for one ``path``, one waits for the other.

    The image of a slide that :func:`read_wsi` read is written by threads, a row of chunks at a time, with a progress
    bar; each thread holds one chunk. The rows lie in the hidden folder ``.{name}.spade-slides`` beside ``path`` until
    all are there. An interrupted call leaves this folder; the same call goes on with what is there and ends in the same
    bytes. For another slide file (another name, size or time of change), other levels, chunks or codecs it begins anew,
    and the log says so. The folder may be deleted; the next finished call for ``path`` removes it. Images that were
    changed after reading, and all other elements, are written from the start by every call.

    Parameters
    ----------
    sdata
        Object to save, with all its elements.
    path
        Directory of the store, such as ``"sample.zarr"``. Missing parent directories are made.
    overwrite
        Whether to replace a store at ``path``. Anything that is not a zarr store is never replaced.

    Raises
    ------
    FileExistsError
        If something exists at ``path`` that may not be replaced.
    ValueError
        If the name of an element or key cannot be stored, ``path`` lies within another store, or the store at ``path``
        was changed after ``sdata`` was read from it, or its ``zarr.json`` cannot be read to know that.
    PermissionError
        If ``path`` is read-only.
    OSError
        If the disk is full; what was at ``path`` is unchanged. Rows of a slide that are written stay, as after an
        interruption.

    Notes
    -----
    On Linux the exchange is atomic. Elsewhere, and on file systems without it, a kill between two renames leaves
    the old store under ``.{name}.spade-old``; the next call for ``path`` puts it back.

    Examples
    --------
    >>> import tempfile
    >>> import spade as sp
    >>> from spatialdata import SpatialData, read_zarr
    >>> path = tempfile.mkdtemp() + "/sample.zarr"
    >>> sp.io.write(SpatialData(attrs={"note": "kept"}), path)
    >>> read_zarr(path).attrs["note"]
    'kept'
    """
    overwrite = check_flag("overwrite", overwrite)
    path = check_path("path", path)
    real = path.resolve()
    inside = next((parent for parent in reversed(real.parents) if is_store(parent)), None)
    if inside is not None:
        raise ValueError(f"path={str(path)!r} lies within the zarr store {str(inside)!r}. Choose a path outside of it.")
    real.parent.mkdir(parents=True, exist_ok=True)

    slides = SlidePieces(sdata, real)

    def build(new: Path) -> None:
        taken = {f"images/{name}" for name in slides.levels}
        part = _part(sdata, [name for name in sdata.elements_paths_in_memory() if name not in taken])
        with quiet():
            part.write(new, update_sdata_path=False, consolidate_metadata=False)
        for file, inside in slides.files():
            (new / inside).parent.mkdir(parents=True, exist_ok=True)
            _link(file, new / inside)
        _consolidate(new)

    with replacing(real):
        _check_replaceable(path, real, overwrite=overwrite)
        _check_unchanged(sdata, path, real)
        backed = _read_from(sdata, real)
        slides.write(sdata)
        with _new_revision(sdata):
            publish(build, real)
        slides.remove()
        sdata.path = path
        _reopen(sdata, real, backed)


def _check_replaceable(path: Path, real: Path, *, overwrite: bool) -> None:
    """Raise if something is at ``path`` that may not be replaced."""
    if real.exists() and not is_store(real):
        raise FileExistsError(
            f"path={str(path)!r} exists and is not a zarr store, so it is not overwritten. Choose another path, or "
            "remove it."
        )
    if real.exists() and not overwrite:
        raise FileExistsError(f"path={str(path)!r} exists. Pass overwrite=True to replace it, or choose another path.")


def _check_unchanged(sdata: SpatialData, path: Path, real: Path) -> None:
    """Raise if ``sdata`` was read from a store that has been saved since, and would undo what was saved."""
    if sdata.path is None or Path(sdata.path).resolve() != real or not is_store(real):
        return
    known, there = sdata.attrs.get(REVISION), _revision(real)
    if known != there:
        raise ValueError(
            f"path={str(path)!r}: the store was saved by someone else after this object was read from it (it has "
            f"revision {there}, the object has {known}), and what was saved would be lost. Read it again with "
            "spatialdata.read_zarr and repeat the last steps, or save the object to another path. To replace the store "
            "all the same, set sdata.path = None before."
        )


def _revision(path: Path) -> str | None:
    """Return the revision of a store; None if this package never saved it."""
    if (path / "zarr.json").is_file():
        attrs = read_facts(path / "zarr.json", "path").get("attributes")
    else:  # zarr format 2
        attrs = read_facts(path / ".zattrs", "path") if (path / ".zattrs").is_file() else None
    return attrs.get(REVISION) if isinstance(attrs, dict) else None


@contextmanager
def _new_revision(sdata: SpatialData) -> Iterator[None]:
    """Give ``sdata`` a new revision, and the old one again if saving fails."""
    before = sdata.attrs.get(REVISION)
    sdata.attrs[REVISION] = secrets.token_hex(8)
    try:
        yield
    except BaseException:
        if before is None:
            del sdata.attrs[REVISION]
        else:
            sdata.attrs[REVISION] = before
        raise


def stamp(path: Path, names: Iterable[str]) -> str:
    """Return what changes when anybody writes the root or one of the elements ``names`` of a store."""
    files = [path / "zarr.json"]
    files += [Path(folder) / file for name in names for folder, _, found in os.walk(path / name) for file in found]
    facts = [(str(file), *_times(file)) for file in sorted(files) if file.name in METADATA]
    return digest(json.dumps(facts))


def _times(file: Path) -> tuple[int, int, int]:
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0, 0, 0
    return status.st_ino, status.st_size, status.st_mtime_ns


def replace_elements(sdata: SpatialData, path: str | Path, names: Iterable[str]) -> None:
    """Write elements of ``sdata`` into the store at ``path``, as safely as :func:`write`, and keep all others.

    Files of the other elements are hard-linked, not copied. The ``attrs`` of ``sdata`` are written too, with a new
    revision. A store that was saved after ``sdata`` was read from it is an error.

    Parameters
    ----------
    sdata
        Object with the elements.
    path
        Store to change.
    names
        Elements by kind and name, such as ``"tables/table"`` or ``"shapes/patches"``; elements that are not in the
        store yet are added.
    """
    names = list(names)
    path = Path(path)
    real = path.resolve()
    with replacing(real):
        _replace_elements(sdata, path, real, names)


def _replace_elements(sdata: SpatialData, path: Path, real: Path, names: list[str]) -> None:
    """Replace elements, while nobody else does."""
    if not is_store(real):
        raise FileNotFoundError(
            f"path={str(path)!r} is not a zarr store (any more). Save the whole object first, with spade.io.write."
        )
    if not (real / "zarr.json").is_file():
        raise ValueError(
            f"path={str(path)!r} is a store of zarr format 2. Save the whole object again, with spade.io.write."
        )
    check_metadata(real, "path")
    elements = sdata.elements_paths_in_memory()
    missing = [name for name in names if name not in elements]
    if missing:
        raise KeyError(f"names: {missing} are not in the object; there are {elements}.")
    _check_unchanged(sdata, path, real)

    def build(new: Path) -> None:
        _link_tree(real, new, leave_out=set(names))
        part = _part(sdata, names)
        part.path = new
        with quiet():
            for name in names:
                part.write_element(name.split("/", 1)[1])
            part.write_attrs()
        _consolidate(new)

    backed = [(kind, name) for kind, name in _read_from(sdata, real) if f"{kind}/{name}" in names]
    with _new_revision(sdata):
        publish(build, real)
    _reopen(sdata, real, backed)


def _link_tree(source: Path, target: Path, leave_out: set[str]) -> None:
    """Copy a store without the elements ``leave_out``: data are linked, metadata copied."""
    for folder, folders, files in os.walk(source):
        here = Path(folder)
        inside = here.relative_to(source)
        folders[:] = [f for f in folders if (inside / f).as_posix() not in leave_out]
        (target / inside).mkdir()
        for file in files:
            _link(here / file, target / inside / file)


def _link(source: Path, target: Path) -> None:
    if source.name not in METADATA:
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        else:
            return
    shutil.copy2(source, target, follow_symlinks=False)


def _part(sdata: SpatialData, names: list[str]) -> SpatialData:
    """Return an object with some of the elements, which are shared, and all attrs."""
    from spatialdata import SpatialData

    elements: dict[str, dict[str, object]] = {}
    for name in names:
        kind, key = name.split("/", 1)
        elements.setdefault(kind, {})[key] = getattr(sdata, kind)[key]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The table is annotating")  # its shapes are in the store
        return SpatialData(**elements, attrs=sdata.attrs)


def _consolidate(path: Path) -> None:
    """Collect the metadata of a store at its root."""
    import zarr

    store = zarr.storage.LocalStore(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)  # parquet files are not part of the hierarchy
        zarr.consolidate_metadata(store)
    store.close()


def _read_from(sdata: SpatialData, path: Path) -> list[tuple[str, str]]:
    """Return kind and name of the elements that are read lazily from the store at ``path``."""
    from spatialdata import get_dask_backing_files

    return [
        (kind, name)
        for kind, name, element in sdata.gen_elements()
        if kind != "tables" and any(Path(file).is_relative_to(path) for file in get_dask_backing_files(element))
    ]


def _reopen(sdata: SpatialData, path: Path, names: list[tuple[str, str]]) -> None:
    """Read elements again, because the chunks of the new store may differ from the old ones."""
    from spatialdata import read_zarr

    if not names:
        return
    new = read_zarr(path, selection=tuple({kind for kind, _ in names}))
    for kind, name in names:
        elements = getattr(sdata, kind)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*overwrit", category=UserWarning)
            elements[name] = getattr(new, kind)[name]


def is_store(path: Path) -> bool:
    """Return whether there is a zarr store at ``path``."""
    return (path / "zarr.json").is_file() or (path / ".zgroup").is_file()
