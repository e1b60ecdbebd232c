"""Replace a directory in one step: a kill at any moment leaves the old directory or the new one.

The new directory is completed beside the target, as ``.{name}.spade-new-{random}``, and then exchanged with it. Writers
of one target wait for each other at the lock ``.{name}.spade-lock``. Who holds it knows that all unfinished directories
are of killed writers, and removes them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from spade.core.locks import locked

#: Errors of the atomic exchange (and of hard links) which say that the system or file system cannot do it.
UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV, errno.EMLINK}
#: Errors of a disk, quota or file size that is used up, and of what may not be written.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
RENAME_EXCHANGE = 2
AT_FDCWD = -100
WRITE_BITS = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
#: Seconds that threads of zarr get after an error to end what they write, and how often that is waited for.
SETTLING, TRIES = 0.1, 20
#: Names of unfinished directories behind ``.{name}.spade-``; earlier versions had a process id and a host in them.
UNFINISHED = re.compile(r"new-[0-9a-f]{8}|\d+@[\w.-]+-[0-9a-f]+")


def check_writable(path: Path) -> None:
    """Raise if what is at ``path``, or would be, cannot be replaced; nothing is written."""
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{str(path)!r} cannot be written: there is no folder {str(folder)!r} (any more).")
    for place in (folder, path):
        if place.exists() and not (os.access(place, os.W_OK) and place.stat().st_mode & WRITE_BITS):
            raise _read_only(path, f"{str(place)!r} may not be written")


def _read_only(path: Path, reason: str) -> PermissionError:
    return PermissionError(
        f"{str(path)!r} is read-only: {reason}. Copy it to a folder that you may write, or pass the object instead of "
        "its path and save it elsewhere with sp.io.write."
    )


@contextmanager
def replacing(path: Path) -> Iterator[None]:
    """Keep other writers of ``path`` out, from before it is read until it is replaced, and clean up after killed ones.

    Raises
    ------
    FileNotFoundError, PermissionError
        The folder of ``path`` is not there, or is read-only.
    """
    check_writable(path)
    with ExitStack() as stack:
        try:
            alone = stack.enter_context(locked(path.with_name(f".{path.name}.spade-lock")))
        except OSError as error:
            raise _explained(error, path) from error
        if alone:
            recover(path)
        yield


def recover(path: Path) -> None:
    """Clean up after killed calls, as the holder of the lock: put the old directory back, remove unfinished ones."""
    old = _old(path)
    if old.is_dir():
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(path)
    prefix = f".{path.name}.spade-"
    for entry in path.parent.iterdir():
        if entry.name.startswith(prefix) and UNFINISHED.fullmatch(entry.name.removeprefix(prefix)):
            shutil.rmtree(entry, ignore_errors=True)


def publish(build: Callable[[Path], None], path: Path) -> None:
    """Let ``build`` make a directory, then put it at ``path`` in one step; the caller is :func:`replacing` it."""
    new = path.with_name(f".{path.name}.spade-new-{secrets.token_hex(4)}")
    try:
        build(new)
        _flush(new)
        if path.exists():
            _exchange(new, path)
        else:
            new.rename(path)
        _flush(path.parent)
    except Exception as error:
        _remove_settled(new)
        if (of_system := _of_system(error)) is None:
            raise
        raise _explained(of_system, path) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)  # after the exchange, this is the old directory


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Say of errors of the system what they mean for ``path``, for which something is written beside it."""
    try:
        yield
    except OSError as error:
        raise _explained(error, path) from error


def _remove_settled(folder: Path) -> None:
    """Remove a directory in which threads that had begun to write when an error came may still do so."""
    for _ in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(SETTLING)
        if not folder.exists():
            return


def _of_system(error: BaseException | None) -> OSError | None:
    """Return the error of the system that an error comes from; libraries wrap it, even in a KeyError."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return error


def _explained(error: OSError, path: Path) -> OSError:
    """Return an error of the system with what it means for ``path``."""
    if not path.parent.is_dir():
        return FileNotFoundError(
            f"{str(path)!r} cannot be written: its folder {str(path.parent)!r} is not there (any more)."
        )
    left = "What was there before is unchanged." if path.exists() else "Nothing was written to it."
    if error.errno in FULL:
        return OSError(
            error.errno,
            f"the disk, quota or largest file size is used up ({error}). {left} Make room and run again",
            str(path),
        )
    if error.errno in READ_ONLY:
        return _read_only(path, f"{error}")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(
            f"{str(path)!r} cannot be written: {error} vanished meanwhile. Does something else remove files in "
            f"{str(path.parent)!r}? {left}"
        )
    return error


def _exchange(new: Path, path: Path) -> None:
    """Exchange two directories, in one step if the system can."""
    if _rename_exchange(new, path):
        return
    old = _old(path)
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _rename_exchange(one: Path, other: Path) -> bool:
    """Exchange two paths atomically; return False if the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def _flush(path: Path) -> None:
    """Ask the system to write ``path`` and its file system to the disk."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            libc.syncfs(descriptor)
        finally:
            os.close(descriptor)
    elif hasattr(os, "sync"):
        os.sync()


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.spade-old")
