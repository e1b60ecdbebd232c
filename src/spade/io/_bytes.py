"""Bytes and text of other programs' files, plain or gzipped, up to a size limit."""

from __future__ import annotations

import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

from spade.io._files.damaged import damaged, reading

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
    with path.open("rb") as file:
        if zipped := file.read(2) == b"\x1f\x8b":
            file.seek(max(0, path.stat().st_size - 4))  # the size that the content has, modulo 2³²
        size = int.from_bytes(file.read(4), "little") if zipped else path.stat().st_size
        if size <= most:
            file.seek(0)
            with reading(path, "a gzipped file" if zipped else "a file", argument):
                raw = _up_to(gzip.GzipFile(fileobj=file) if zipped else file, most + 1)
    if size > most or len(raw) > most:
        raise ValueError(
            f"{argument}={str(path)!r} holds more than {most:,} bytes, uncompressed. Export less (annotations rather "
            "than cells), or allow more with max_bytes= of sp.io.read_annotations; reading takes about ten times as "
            "much memory."
        )
    return raw


def _up_to(file: Any, most: int) -> bytes:
    """Return at most ``most`` bytes, read piece by piece."""
    raw = io.BytesIO()
    while most > raw.tell() and (piece := file.read(min(PIECE, most - raw.tell()))):
        raw.write(piece)
    return raw.getvalue()


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
        content = json.loads(text)
        if re.search(r"\\u[dD][89a-fA-F]", text):  # halves of characters, which no file can hold
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError as error:
        raise damaged(path, "JSON", "it is nested too deeply", argument) from error
    except ValueError as error:
        raise damaged(path, "JSON", str(error), argument) from error
    return content
