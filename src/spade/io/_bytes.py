"""Bytes and text of files that others wrote, plain or gzipped, of a size that is checked."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

#: Bytes of the largest file of labels that is read unless more are allowed.
MAX_BYTES = 2**30


def suffix(path: Path) -> str:
    """Return the suffix in lower case, that before ``.gz`` if there is one."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def read_bytes(path: Path, argument: str, most: int | None = None) -> bytes:
    """Return what a file holds, unpacked; more than ``most`` bytes are an error."""
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: there is no file {str(path)!r}.")
    limit = -1 if most is None else most + 1
    with path.open("rb") as file:
        raw = file.read(limit)
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.GzipFile(fileobj=io.BytesIO(raw)).read(limit)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(
                f"{argument}={str(path)!r} is truncated or damaged ({error}). Compare its size with the source and get it again."
            ) from error
    if most is not None and len(raw) > most:
        raise ValueError(
            f"{argument}={str(path)!r} holds more than {most:,} bytes. Export less (annotations rather than cells), or allow "
            "more with max_bytes= of sp.io.read_annotations; reading takes some ten times as much memory."
        )
    return raw


def read_text(path: Path, argument: str, most: int | None = None) -> str:
    """Return what a text file holds, without a byte order mark."""
    try:
        return read_bytes(path, argument, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{argument}={str(path)!r} is not a text file in UTF-8 ({error.reason}). Save it as such."
        ) from error
