"""Bytes and text of other programs' files, plain or gzipped, up to a size limit."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from spade.core.files import parse_json
from spade.io._files.damaged import MAX_RATIO, damaged, reading

#: Bytes of the largest text file that is read, uncompressed, unless more are allowed.
MAX_BYTES = 2**30
PIECE = 2**20


def suffix(path: Path) -> str:
    """Return the suffix in lower case; of a gzipped file, the one before ``.gz``."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def check_file(path: Path, argument: str) -> None:
    """Raise if there is no such file."""
    if "\0" in str(path) or not path.is_file():
        raise FileNotFoundError(f"{argument}: there is no file {str(path)!r}.")


def read_bytes(path: Path, argument: str, most: int = MAX_BYTES) -> bytes:
    """Return the bytes of a file, uncompressed; more than ``most`` bytes are an error, raised before they are held."""
    check_file(path, argument)
    with path.open("rb") as file, reading(path, "a file", argument):
        size, zipped = path.stat().st_size, file.read(2) == b"\x1f\x8b"
        file.seek(0)
        plain: BinaryIO = gzip.GzipFile(fileobj=file) if zipped else file  # type: ignore[assignment]
        fits = size <= most and (not zipped or size * MAX_RATIO <= most or sum(map(len, _pieces(plain, most))) <= most)
        plain.seek(0)
        raw = b"".join(_pieces(plain, most)) if fits else b""
    if not fits or len(raw) > most:
        raise ValueError(
            f"{argument}={str(path)!r} holds more than {most:,} bytes. Export less (annotations rather than cells), or "
            "allow more with max_bytes= of sp.io.read_annotations; reading takes about ten times as much memory."
        )
    return raw


def _pieces(file: BinaryIO, most: int) -> Iterator[bytes]:
    """Yield a file piece by piece until there are more than ``most`` bytes; one large read would reserve them all."""
    n = 0
    while n <= most and (piece := file.read(PIECE)):
        n += len(piece)
        yield piece


def read_text(path: Path, argument: str, most: int = MAX_BYTES) -> str:
    """Return the text of a file, without a byte order mark."""
    try:
        return read_bytes(path, argument, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{argument}={str(path)!r} is not a UTF-8 text file ({error.reason}). Save it as one."
        ) from error


def read_json(path: Path, argument: str, most: int = MAX_BYTES) -> Any:
    """Return what a JSON file holds; text in it can be written again."""
    text = read_text(path, argument, most)
    try:
        content = parse_json(text)
        if re.search(r"\\u[dD][89a-fA-F]", text):  # halves of characters, which no file can hold
            json.dumps(content, ensure_ascii=False).encode()
    except ValueError as error:
        raise damaged(path, "JSON", str(error), argument) from error
    return content
