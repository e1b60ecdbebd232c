"""Locks between processes and threads, which end with the process that holds them, however it ends."""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("spade")

#: Errors which say that somebody else holds a lock, and that the file system has no locks.
TAKEN = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
#: Seconds between two tries.
PAUSE = 0.05

#: Thread that holds a lock in this process, by the lock's file.
_holders: dict[Path, int] = {}


class TakenError(Exception):
    """Somebody else holds the lock."""


@contextmanager
def locked(file: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock; nobody else does meanwhile, in any process or thread on any machine that sees the file.

    A thread that holds the lock gets it again. The file is made for the lock, and removed afterwards. One that a killed
    process left locks nothing.

    Parameters
    ----------
    file
        File of the lock, in an existing folder.
    wait
        Whether to wait for others; else a lock that is taken raises a :class:`TakenError`.

    Yields
    ------
    True, or False if the file system has no locks; then nobody is kept out, which is logged.
    """
    if _holders.get(file) == threading.get_ident():
        yield True
        return
    descriptor = _acquire(file, wait=wait)
    if descriptor is None:
        logger.warning("the file system of %s has no file locks: make sure that nothing else writes there", file.parent)
        yield False
        return
    _holders[file] = threading.get_ident()
    try:
        yield True
    finally:
        _holders.pop(file, None)
        _release(file, descriptor)


def _acquire(file: Path, *, wait: bool) -> int | None:
    """Return the descriptor of the locked file; None if the file system has no locks."""
    told = False
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
            if _is_at(descriptor, file):  # not removed by the one who held it before
                return descriptor
            os.close(descriptor)
            continue
        except OSError as error:
            os.close(descriptor)
            if error.errno in UNSUPPORTED:
                file.unlink(missing_ok=True)
                return None
            if error.errno not in TAKEN:
                raise
        if not wait:
            raise TakenError(str(file))
        if not told:
            logger.info("waiting for another process or thread that holds %s", file)
            told = True
        time.sleep(PAUSE)


def _is_at(descriptor: int, file: Path) -> bool:
    """Whether an open file still is the one of this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _release(file: Path, descriptor: int) -> None:
        os.close(descriptor)
        try:
            file.unlink(missing_ok=True)
        except PermissionError:  # the next one has it open
            pass
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _release(file: Path, descriptor: int) -> None:
        try:
            file.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
