"""The shipped tables of human and mouse genes."""

from __future__ import annotations

import lzma
from functools import cache
from io import StringIO
from pathlib import Path

import pandas as pd

from spade.io._genes.tables import GeneFiles

HGNC, MGI = (Path(__file__).with_name(f"{name}.tsv.xz") for name in ("hgnc", "mgi"))


@cache
def shipped_genes() -> GeneFiles:
    """Return names of all approved human genes, of the mouse genes with an Ensembl id, and their orthologues.

    Data of HGNC (CC0) and of Mouse Genome Informatics (CC BY 4.0), see the first lines of the files. Callers change
    nothing in them.
    """
    human, mouse = _read(HGNC), _read(MGI)
    pairs = human[human["mouse"] != ""]
    files = GeneFiles()
    files.add("human", human)
    files.add("mouse", mouse)
    files.add("mouse", pairs[["mouse", "mouse_ensembl"]].set_axis(["symbol", "ensembl"], axis=1))
    files.pairs = list(zip(pairs["symbol"], pairs["mouse"], strict=True))
    return files


def _read(path: Path) -> pd.DataFrame:
    text = lzma.decompress(path.read_bytes()).decode()
    return pd.read_csv(StringIO(text), sep="\t", skiprows=1, dtype=str, keep_default_na=False)
