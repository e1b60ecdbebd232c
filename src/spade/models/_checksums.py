"""Checksums of the files of a model's directory, by which a changed byte is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from spade.core.files import parse_json, read_small_text

CHECKSUMS = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of every other file in ``folder``."""
    paths = [path for path in sorted(folder.iterdir()) if path.name != CHECKSUMS]
    (folder / CHECKSUMS).write_text(_text({path.name: _sha256(path) for path in paths}))


def check_checksums(folder: Path, names: Iterable[str]) -> None:
    """Raise if a file of ``folder`` is not the one that was written; directories of earlier versions have no checksums.

    Parameters
    ----------
    folder
        Directory of a model.
    names
        Files that a model may have: each must have a checksum if it is there, and be there if it has one. Others are
        not looked at.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return
    try:
        stored: object = parse_json(text := read_small_text(path))
        known = stored["files"] if isinstance(stored, dict) else None
    except (KeyError, ValueError) as error:
        raise _changed(folder, CHECKSUMS, f"it cannot be read ({error})") from error
    if not isinstance(known, dict) or text != _text(known):
        raise _changed(folder, CHECKSUMS, "its own checksum does not fit")
    for name in sorted(name for name in names if name in known or (folder / name).exists()):
        if name not in known:
            raise _changed(folder, name, f"it is not listed in {CHECKSUMS}")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; the model directory is incomplete.")
        if _sha256(folder / name) != known[name]:
            raise _changed(folder, name, f"its checksum is not the one in {CHECKSUMS}")


def _changed(folder: Path, name: str, reason: str) -> ValueError:
    return ValueError(
        f"{folder} cannot be read as a model: {name} was changed since the model was saved, or damaged ({reason}). "
        f"Copy the directory again from where it was saved. If the change is wanted, delete {CHECKSUMS}."
    )


def _text(files: dict[str, str]) -> str:
    """Return the text of the file, which also holds a checksum of itself."""
    own = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": files, "of_these": own}, indent=1, sort_keys=True) + "\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
