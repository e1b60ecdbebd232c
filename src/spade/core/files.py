"""Digests of arrays, atomic writes of files, and files of JSON, whose size and depth are bounded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spade.core.locks import locked

#: Arrays of a CSR matrix, in the order in which they are saved.
CSR_PARTS = ("indptr", "indices", "data")
#: Elements of an array that are hashed at a time.
CHUNK = 1 << 26
#: Bytes of the largest file of JSON that this package writes; lists of 100,000 genes take 2 MB.
MAX_JSON = 1 << 26


def digest(*parts: NDArray[np.generic] | str | memoryview) -> str:
    """Return the first 16 hex digits of the SHA-256 of all parts, one after another.

    An array counts with its shape, its type and its values, which are read piece by piece; text and bytes count as they
    are.
    """
    sha256 = hashlib.sha256()
    for part in parts:
        if not isinstance(part, np.ndarray):
            sha256.update(part.encode() if isinstance(part, str) else part)
            continue
        sha256.update(f"{part.shape}{part.dtype}".encode())
        flat = part.reshape(-1)
        for start in range(0, len(flat), CHUNK):
            sha256.update(np.ascontiguousarray(flat[start : start + CHUNK]).view(np.uint8).data)
    return sha256.hexdigest()[:16]


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file completely or not at all; ``write`` gets the path of a temporary file beside it.

    Writers of one file wait for each other, and remove what killed ones left.
    """
    prefix = f".{path.name}."
    with locked(path.with_name(f"{prefix}lock")) as alone:
        for left in path.parent.iterdir() if alone else ():
            if left.name.startswith(prefix) and left.name.removeprefix(prefix).removesuffix(".part").isdigit():
                left.unlink(missing_ok=True)
        part = path.with_name(f"{prefix}{os.getpid()}.part")
        try:
            write(part)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def read_small_text(path: Path) -> str:
    """Return the text of a file that this package wrote; more than ``MAX_JSON`` bytes are a ValueError."""
    if (size := path.stat().st_size) > MAX_JSON:
        raise ValueError(f"it has {size:,} bytes, and no such file has more than {MAX_JSON:,}")
    return path.read_text(encoding="utf-8")


def differing(file: Path, wanted: Mapping[str, Any]) -> list[str]:
    """Return in what the facts that a file of JSON holds differ from others, whose values JSON can hold."""
    try:
        stored = parse_json(read_small_text(file))
        if not isinstance(stored, dict):
            raise ValueError("no facts")
    except (OSError, ValueError):
        return ["what it belongs to, which cannot be read"]
    plain = json.loads(json.dumps(dict(wanted)))
    return sorted(name for name in {*stored, *plain} if stored.get(name) != plain.get(name))


def parse_json(text: str) -> Any:
    """Return what JSON says; text that is none, or is nested too deeply to be read, is a ValueError."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
