"""Sets of genes from files in the GMT format of the Molecular Signatures Database."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from spade._checks import shorten
from spade.core.checks import brief
from spade.io._bytes import check_file, read_text

SUFFIX = ".gmt"
#: Bytes of the largest file that is read; all human sets of the database take some 30 MB.
MAX_GMT = 2**28


def read_gmt(path: Path, argument: str) -> dict[str, list[str]]:
    """Return the genes of every set, in the order of the file.

    A line is the name of a set, a description and its genes, separated by tabs; tabs behind the last gene do not count.
    """
    source = f"{argument}={brief(str(path))}"
    if path.suffix.lower() != SUFFIX:
        raise ValueError(f"{source}: expected a file that ends in {SUFFIX}; nothing is downloaded by name.")
    check_file(path, argument)
    if (size := path.stat().st_size) > MAX_GMT:
        raise ValueError(f"{source} has {size:,} bytes, but files of gene sets have at most {MAX_GMT:,}.")
    sets: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(path, argument, MAX_GMT).split("\n"), 1):
        if not line.strip():
            continue
        name, *fields = [field.strip() for field in line.rstrip().split("\t")]
        genes = fields[1:]
        if not name or not genes or "" in genes:
            raise ValueError(
                f"{source}: line {number} is not the name of a set, a description and genes, none of them empty, "
                f"separated by tabs: {line[:60]!r}. Correct the line, or download the file again."
            )
        if name in sets:
            raise ValueError(f"{source}: line {number}: there is a set {name!r} before it. Rename one of them.")
        if twice := [gene for gene, n in Counter(genes).items() if n > 1]:
            raise ValueError(f"{source}: line {number}: set {name!r} names {shorten(twice)} more than once.")
        sets[name] = genes
    if not sets:
        raise ValueError(f"{source} holds no gene sets.")
    return sets
