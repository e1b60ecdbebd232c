"""Text tables as people and programs write them: with a byte order mark, comments and any usual separator."""

from __future__ import annotations

from pathlib import Path

from spade.io._bytes import MAX_BYTES, read_text
from spade.io._files.damaged import DamagedFileError

COMMENT = "#"


def table_text(path: Path, argument: str, most: int = MAX_BYTES) -> tuple[str, str]:
    """Return the text of a table, and what separates its columns: tabs if there are any, else commas or semicolons.

    Lines that begin with ``#`` are comments and become empty, so that lines keep their numbers. One that looks like a
    line of the table is an error, because leaving it out may be wrong.
    """
    lines = read_text(path, argument, most).splitlines()
    first = next((line for line in lines if line.strip() and not line.startswith(COMMENT)), "")
    separator = "\t" if "\t" in first else max(",;", key=first.count)
    n_separators = first.count(separator)
    for number, line in enumerate(lines):
        if not line.startswith(COMMENT):
            continue
        if line[1:2].strip() and 0 < n_separators == line.count(separator):
            raise DamagedFileError(
                f"{argument}={str(path)!r}: line {number + 1} begins with {COMMENT!r} but has as many fields as the "
                f"table. If it is a comment, begin it with '{COMMENT} '; else take the {COMMENT!r} away."
            )
        lines[number] = ""
    return "\n".join(lines), separator
