"""Replace a directory in one step: a kill at any moment leaves the old directory or the new one.

The new directory is completed beside the target, as ``.{name}.spade-{pid}@{host}-{random}``, and then exchanged with
it. The next call removes what a killed call left behind.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

#: Errors of the atomic exchange (and of hard links) which say that the system or file system cannot do it.
UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV, errno.EMLINK}
RENAME_EXCHANGE = 2
AT_FDCWD = -100


def recover(path: Path) -> None:
    """Clean up after a killed call: put the old directory back, and remove unfinished ones of dead processes."""
    old = _old(path)
    if old.is_dir():
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(path)
    if not path.parent.is_dir():
        return
    prefix, host = f".{path.name}.spade-", f"@{socket.gethostname()}"
    for entry in path.parent.iterdir():
        if entry.name.startswith(prefix) and host in entry.name:
            pid = entry.name.removeprefix(prefix).split("@", 1)[0]
            if pid.isdigit() and not _alive(int(pid)):
                shutil.rmtree(entry, ignore_errors=True)


def publish(build: Callable[[Path], None], path: Path) -> None:
    """Let ``build`` make a directory, then put it at ``path`` in one step."""
    new = path.with_name(f".{path.name}.spade-{os.getpid()}@{socket.gethostname()}-{secrets.token_hex(4)}")
    try:
        build(new)
        _flush(new)
        if path.exists():
            _exchange(new, path)
        else:
            new.rename(path)
        _flush(path.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)  # after the exchange, this is the old directory


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


def _alive(pid: int) -> bool:
    if sys.platform == "win32":  # there is no harmless way to ask, so keep what may be in use
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
