"""Make the table of gene names that is shipped: ``python benchmarks/gene_table.py --hgnc FILE --hcop FILE --date DAY``.

``FILE`` of ``--hgnc`` is HGNC's table of approved genes (custom download, tab-separated, with status, aliases, previous
symbols and Ensembl ids); that of ``--hcop`` holds HGNC's comparison of orthologues, human to mouse, with the columns
``Gene stable ID, Gene name, Mouse gene stable ID, Mouse gene name, supporting_source``. Both are data of HGNC, which
releases all of its data under CC0 (https://www.genenames.org/about/license/).
"""

from __future__ import annotations

import argparse
import lzma
from pathlib import Path

import pandas as pd

from spade.io._genes.shipped import PATH
from spade.io._genes.tables import gene_files

ONE = ["Gene name", "Mouse gene name"]


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--hgnc", required=True)
    parser.add_argument("--hcop", required=True)
    parser.add_argument("--date", required=True)
    parser.add_argument("--out", default=str(PATH))
    options = parser.parse_args(arguments)
    human = gene_files([options.hgnc]).names["human"]
    pairs = pd.read_csv(options.hcop, keep_default_na=False)
    pairs = pairs[pairs["supporting_source"].str.split(",").map(lambda sources: "HGNC" in sources)]
    for column in ONE:
        pairs = pairs[~pairs[column].duplicated(keep=False) & (pairs[column] != "-")]
    pairs = pairs.set_index("Gene name").replace("-", "")
    human["mouse"] = human["symbol"].map(pairs["Mouse gene name"]).fillna("")
    human["mouse_ensembl"] = human["symbol"].map(pairs["Mouse gene stable ID"]).fillna("")
    head = f"# Human genes and their one-to-one mouse orthologues as HGNC asserts them; {options.date}; CC0\n"
    text = head + human.sort_values("symbol").to_csv(sep="\t", index=False, lineterminator="\n")
    Path(options.out).write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{len(human):,} genes, {int((human['mouse'] != '').sum()):,} with an orthologue: {options.out}")


if __name__ == "__main__":
    main()
