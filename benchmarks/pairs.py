"""Do image and expression of real sections find each other? The table of the README.

Olfactory bulb (MOB_11) and breast cancer (B4 and C2), on blocks of 1 mm that were held out of training: experts, one
expert, and experts that were trained on pairs shuffled within sections. Means over draws of blocks.

``SPADE_TEST_DATA=... python benchmarks/pairs.py``
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import pandas as pd
from _sections import read_bulb, read_tumour

import spade as sp

SETTINGS = {"use_rep": "X_texture", "split_key": "spade_split", "n_epochs": 100}
COLUMNS = ["recall", "chance_recall", "median_rank", "chance_rank"]
ONE, SHUFFLED = "one expert (control)", "trained on pairs shuffled within sections"


def compare(samples, n_experts, draws, ways=("experts", ONE, SHUFFLED)):
    """Return recall@10 and the median rank of the true partner, by model and gallery."""
    several = {"n_experts": n_experts}
    changed = {"experts": several, ONE: {"n_experts": 1}, SHUFFLED: several | {"shuffle_pairs": True}}
    rows = []
    for draw in range(draws):
        sp.pp.split(samples, block_um=1000, fractions=(0.7, 0, 0.3), rng=draw)
        genes = sp.pp.select_genes(samples, n_top_genes=1000, split_key="spade_split")
        for way in ways:
            model = sp.tl.train_spade(samples, genes=genes, **SETTINGS, **changed[way], rng=draw)
            rows.append(sp.tl.retrieval_metrics(samples, model, split_key="spade_split").assign(model=way))
    return pd.concat(rows).groupby(["model", "gallery"])[COLUMNS].mean()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    data = Path(os.environ["SPADE_TEST_DATA"])
    cohorts = {
        "olfactory bulb": (2, [read_bulb(data / "mob", "11")]),
        "breast cancer": (4, [read_tumour(data / "her2st", name) for name in ("B4", "C2")]),
    }
    for name, (n_experts, samples) in cohorts.items():
        sp.pp.patches(samples)
        sp.pp.encode_patches(samples)
        print(f"\n{name}\n{compare(samples, n_experts, options.draws).round(3).to_string()}", flush=True)


if __name__ == "__main__":
    main()
