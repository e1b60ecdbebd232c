"""Bytes and text of other programs' files, plain or gzipped, up to a size limit."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

#: Bytes of the largest file of labels that is read, unless more are allowed.
MAX_BYTES = 2**30


def suffix(path: Path) -> str:
    """Return the suffix in lower case; of a gzipped file, the one before ``.gz``."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def check_file(path: Path, argument: str) -> None:
    """Raise if there is no such file."""
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: there is no file {str(path)!r}.")


def read_bytes(path: Path, argument: str, most: int | None = None) -> bytes:
    """Return the bytes of a file, uncompressed; more than ``most`` bytes are an error."""
    check_file(path, argument)
    limit = -1 if most is None else most + 1
    with path.open("rb") as file:
        raw = file.read(limit)
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.GzipFile(fileobj=io.BytesIO(raw)).read(limit)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(
                f"{argument}={str(path)!r} is truncated or damaged ({error}). Compare its size with the source and "
                "download it again."
            ) from error
    if most is not None and len(raw) > most:
        raise ValueError(
            f"{argument}={str(path)!r} holds more than {most:,} bytes. Export less (annotations rather than cells), or "
            "allow more with max_bytes= of sp.io.read_annotations; reading takes about ten times as much memory."
        )
    return raw


def read_text(path: Path, argument: str, most: int | None = None) -> str:
    """Return the text of a file, without a byte order mark."""
    try:
        return read_bytes(path, argument, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{argument}={str(path)!r} is not a UTF-8 text file ({error.reason}). Save it as one."
        ) from error
