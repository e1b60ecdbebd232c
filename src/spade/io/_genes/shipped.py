"""The shipped table of human genes and their mouse orthologues."""

from __future__ import annotations

import lzma
from functools import cache
from io import StringIO
from pathlib import Path

import pandas as pd

from spade.io._genes.tables import GeneFiles

PATH = Path(__file__).with_name("hgnc.tsv.xz")


@cache
def shipped_genes() -> GeneFiles:
    """Return names of all approved human genes, and those of mouse genes that are orthologues of one of them alone.

    Data of HGNC (CC0), see the first line of the file. Former names and aliases of mouse genes are not among them.
    Callers change nothing in it.
    """
    text = lzma.decompress(PATH.read_bytes()).decode()
    frame = pd.read_csv(StringIO(text), sep="\t", skiprows=1, dtype=str, keep_default_na=False)
    files = GeneFiles()
    files.add("human", frame)
    pairs = frame[frame["mouse"] != ""]
    files.add("mouse", pd.DataFrame({"symbol": pairs["mouse"], "ensembl": pairs["mouse_ensembl"]}))
    files.pairs = list(zip(pairs["symbol"], pairs["mouse"], strict=True))
    return files
