"""Make the tables of gene names that are shipped.

``python benchmarks/gene_table.py --hgnc FILE --hcop FILE --mgi FILE --dates DAY DAY DAY``, where the files are

- HGNC's table of approved genes (custom download, tab-separated, with status, aliases, previous symbols, Ensembl ids);
- HGNC's comparison of orthologues, human to mouse, with the columns ``Gene stable ID, Gene name, Mouse gene stable ID,
  Mouse gene name, supporting_source``. HGNC releases all of its data under CC0
  (https://www.genenames.org/about/license/);
- MGI's genes, tab-separated, with the columns ``symbol``, ``synonyms`` (parted by ``|``) and ``ensembl``: those of
  ``MRK_List2.rpt`` and ``MRK_ENSEMBL.rpt`` beside each other. Data of Mouse Genome Informatics are under CC BY 4.0
  (https://www.informatics.jax.org/mgihome/other/copyright.shtml).
"""

from __future__ import annotations

import argparse
import lzma
from pathlib import Path

import pandas as pd

from spade.io._genes.shipped import HGNC, MGI
from spade.io._genes.tables import gene_files

ONE = ["Gene name", "Mouse gene name"]


def main(arguments=None):
    parser = argparse.ArgumentParser()
    for name in ("--hgnc", "--hcop", "--mgi"):
        parser.add_argument(name, required=True)
    parser.add_argument("--dates", nargs=3, required=True, help="of the three files")
    parser.add_argument("--out", type=Path, default=HGNC.parent)
    options = parser.parse_args(arguments)
    mouse = mouse_genes(options.mgi)
    human = gene_files([options.hgnc]).names["human"]
    pairs = orthologues(options.hcop, mouse)
    former = pairs[pairs["mouse"] != pairs["former"]].set_index("mouse")["former"]
    mouse["previous"] = mouse["symbol"].map(former).fillna("")
    for column in ("mouse", "mouse_ensembl"):
        human[column] = human["symbol"].map(pairs[column]).fillna("")
    days = f"{options.dates[0]}; {options.dates[1]}"
    write(human, options.out / HGNC.name, f"Human genes and one-to-one mouse orthologues as HGNC asserts; {days}; CC0")
    write(mouse, options.out / MGI.name, f"Mouse genes of Mouse Genome Informatics; {options.dates[2]}; CC BY 4.0")
    print(
        f"{len(human):,} human genes, {int((human['mouse'] != '').sum()):,} with an orthologue; {len(mouse):,} of mouse"
    )


def mouse_genes(path):
    """Genes with an Ensembl id, which tables of counts may hold."""
    frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False).rename(columns={"synonyms": "alias"})
    return frame[frame["ensembl"] != ""][["symbol", "ensembl", "alias"]]


def orthologues(path, mouse):
    """Pairs that HGNC asserts and that are of one gene each, by human symbol; mouse symbols are those of MGI now."""
    pairs = pd.read_csv(path, keep_default_na=False)
    pairs = pairs[pairs["supporting_source"].str.split(",").map(lambda sources: "HGNC" in sources)]
    for column in ONE:
        pairs = pairs[~pairs[column].duplicated(keep=False) & (pairs[column] != "-")]
    pairs = pairs.set_index("Gene name").replace("-", "")
    current = mouse.drop_duplicates("ensembl").set_index("ensembl")["symbol"]
    former, ids = pairs["Mouse gene name"], pairs["Mouse gene stable ID"]
    return pd.DataFrame({"mouse": ids.map(current).fillna(former), "mouse_ensembl": ids, "former": former})


def write(frame, path, head):
    text = f"# {head}\n" + frame.sort_values("symbol").to_csv(sep="\t", index=False, lineterminator="\n")
    path.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
